// The notes of this pack's templates and blueprints in the creator's language. The frontend takes one text a note, so the
// lines are exchanged while a graph is being opened, before anything is made of it: a line that a creator changed stays as it
// is, and a note saved in one language is read in another.
import { app } from "../../../scripts/app.js";
import { language } from "./words.js";

const LINES = {
  "Read me": [
    "はじめに",
    "说明"
  ],
  "## Text to picture": [
    "## 文章から画像",
    "## 文字生成图片"
  ],
  "Press **Run**. The model rewrites the few words into a full description; that same pass conditions the picture. Change a word of the text and run again.": [
    "**実行** を押します。モデルが短い言葉を詳しい描写に書き直し、その同じ計算が画像の条件になります。文章の一語を変えて、もう一度実行してください。",
    "按 **运行**。模型把几个词改写成完整的描述，同一次计算就是图片的条件。改动文字中的一个词，再运行一次。"
  ],
  "The miniature knows coloured shapes on plain backgrounds at 128 x 128 pixels: circle, square, triangle, star, cross, ring, heart and crescent, solid, striped or dotted, on white, gray, black, beige or navy. For real pictures open a *Krea 2* template: only the loaders differ.": [
    "ミニチュアが知っているのは、128 x 128 ピクセルの無地の背景に置いた色つきの図形だけです：circle、square、triangle、star、cross、ring、heart、crescent。塗りは solid、striped、dotted、背景は white、gray、black、beige、navy。本物の画像には *Krea 2* のテンプレートを開きます。違うのは読み込みのノードだけです。",
    "微缩模型只认识 128 x 128 像素纯色背景上的彩色图形：circle、square、triangle、star、cross、ring、heart、crescent，填充为 solid、striped 或 dotted，背景为 white、gray、black、beige 或 navy。需要真实图片时打开 *Krea 2* 模板，不同的只有加载节点。"
  ],
  "## Without rewriting": [
    "## 書き直さない場合",
    "## 不改写"
  ],
  "*VLM Encode* reads the prompt as it is. *Layerwise Attention Pool* hands out ordinary MODEL and CONDITIONING, so any sampler works: here the stock KSampler.": [
    "*VLM エンコード* はプロンプトをそのまま読みます。*層ごとの注意プーリング* は普通の MODEL と CONDITIONING を出すので、どのサンプラーでも使えます。ここでは標準の KSampler です。",
    "*VLM 编码* 原样读取提示词。*逐层注意力池化* 输出普通的 MODEL 和 CONDITIONING，任何采样器都能用，这里是自带的 KSampler。"
  ],
  "## Edit by instruction": [
    "## 指示で編集",
    "## 按指令编辑"
  ],
  "The picture goes to the vision-language model only: no VAE encode, no mask. It writes what the changed picture shows, and that pass conditions the drawing.": [
    "画像は視覚言語モデルだけに渡ります。VAE エンコードもマスクも要りません。モデルは変更後の画像に何が写るかを書き、その計算が描画の条件になります。",
    "图片只交给视觉语言模型：不需要 VAE 编码，也不需要遮罩。模型写出改动后的图片上有什么，这次计算就是绘制的条件。"
  ],
  "**Your own picture:** drag it onto the canvas and lead the **IMAGE** of its *Load Image* where *Sample Picture* leads.": [
    "**自分の画像：** キャンバスにドラッグし、できた *画像を読み込む* の **画像** を *サンプル画像* と同じ先につなぎます。",
    "**自己的图片：** 把它拖到画布上，再把 *加载图像* 的 **图像** 连到 *示例图片* 所连的地方。"
  ],
  "## Strengths": [
    "## 強さ",
    "## 强度"
  ],
  "The board gives each picture a name and a strength: 1 is neutral, 2 counts as if it were given twice, 0 leaves it out. The prompt may say **@heart**. Above, the night counts four times; below, both count the same and the heart wins.": [
    "ボードで画像ごとに名前と強さを決めます。1 は中立、2 は二度渡したのと同じ、0 は使いません。プロンプトには **@heart** と書けます。上では夜が四倍に数えられ、下では両方が同じで、ハートが勝ちます。",
    "参考板给每张图片一个名称和强度：1 为中性，2 相当于给两次，0 表示不用。提示词里可以写 **@heart**。上面夜景算四倍；下面两张相同，心形胜出。"
  ],
  "## Look inside": [
    "## 中を見る",
    "## 查看内部"
  ],
  "*UniFusion Inspect* shows how much each layer of the vision-language model gives, which layers a word attends to, a heat map over the picture, and what the tokens are spent on.": [
    "*UniFusion 検査* は、視覚言語モデルの各層の寄与、語がどの層を見るか、画像の上のヒートマップ、トークンの使い道を示します。",
    "*UniFusion 检查* 显示视觉语言模型每一层的贡献、一个词关注哪些层、图片上的热力图，以及 token 用在了哪里。"
  ],
  "Write a word or a layer's number into **heat_map**. Layers named in **silence** are switched off in the second drawing.": [
    "**heat_map** に語か層の番号を書きます。**silence** に書いた層は二枚目の描画で切られます。",
    "在 **heat_map** 中写一个词或层的编号。**silence** 中写出的层在第二次绘制时关闭。"
  ],
  "## Draw without the encoder": [
    "## エンコーダーなしで描く",
    "## 不用编码器绘制"
  ],
  "Run once. Then bypass the group *Read and save* (select it, *Ctrl+B*) and run again: the vision-language model is not loaded any more, only the drawing model. *Load Conditioning* offers the saved files.": [
    "一度実行します。次に最初のグループをバイパスして（選択して *Ctrl+B*）、もう一度実行します。視覚言語モデルはもう読み込まれず、描画モデルだけになります。*条件付けを読み込む* に保存したファイルが並びます。",
    "先运行一次。然后绕过第一个分组（选中后按 *Ctrl+B*）再运行：不再加载视觉语言模型，只加载绘图模型。*加载条件* 会列出已保存的文件。"
  ],
  "They lie in **output/conditioning** and can be shared.": [
    "ファイルは **output/conditioning** にあり、人に渡せます。",
    "文件在 **output/conditioning** 中，可以分享。"
  ],
  "## Style and subject": [
    "## 作風と主題",
    "## 风格与主体"
  ],
  "Names of the board stand in the prompt as **@subject** and **@style**. Write what to take from which picture. A row's last two numbers let a picture count in one part of the schedule only: early steps make the layout, late ones the details.": [
    "ボードの名前は **@subject**、**@style** としてプロンプトに書けます。どの画像から何を取るかを書いてください。ボードの行では、画像が働くスケジュールの区間も決められます。前半のステップは構図、後半は細部を作ります。",
    "参考板上的名称在提示词中写作 **@subject** 和 **@style**。写明从哪张图片取什么。参考板的每一行还能限定图片起作用的日程区间：前面的步骤决定构图，后面的决定细节。"
  ],
  "## Krea 2 Turbo": [
    "## Krea 2 Turbo",
    "## Krea 2 Turbo"
  ],
  "## Krea 2 Raw": [
    "## Krea 2 Raw",
    "## Krea 2 Raw"
  ],
  "## Files for this workflow": [
    "## このワークフローに要るファイル",
    "## 此工作流需要的文件"
  ],
  "Put each file into its folder, then press *R* on the canvas.": [
    "各ファイルをそのフォルダーに置き、キャンバスで *R* を押します。",
    "把每个文件放进对应的文件夹，然后在画布上按 *R*。"
  ],
  "Put each file into the folder named, then press *R* on the canvas.": [
    "各ファイルを書かれたフォルダーに置き、キャンバスで *R* を押します。",
    "把每个文件放进所写的文件夹，然后在画布上按 *R*。"
  ],
  "**models/diffusion_models** (about 13 GB)": [
    "**models/diffusion_models**（約 13 GB）",
    "**models/diffusion_models**（约 13 GB）"
  ],
  "**models/text_encoders** (about 5 GB)": [
    "**models/text_encoders**（約 5 GB）",
    "**models/text_encoders**（约 5 GB）"
  ],
  "**models/vae** (about 0.3 GB)": [
    "**models/vae**（約 0.3 GB）",
    "**models/vae**（约 0.3 GB）"
  ],
  "**models/upscale_models** (about 0.07 GB)": [
    "**models/upscale_models**（約 0.07 GB）",
    "**models/upscale_models**（约 0.07 GB）"
  ],
  "**Memory.** A 16 GB card holds the drawing model whole; with less, ComfyUI keeps a part in main memory (32 GB) and draws slower. Encoder and drawing model need not fit together: the encoder makes way.": [
    "**メモリ。** 16 GB のカードには描画モデルが丸ごと入ります。少ない場合は ComfyUI が一部をメインメモリ（32 GB）に置き、遅くなります。エンコーダーと描画モデルが同時に入る必要はありません。エンコーダーが場所を空けます。",
    "**内存。** 16 GB 显卡能完整放下绘图模型；更少时 ComfyUI 把一部分放在主内存（32 GB）中，绘制变慢。编码器和绘图模型不必同时放下：编码器会让出空间。"
  ],
  "**Size.** Best near one megapixel: 1024 x 1024, 1248 x 832, 832 x 1248. Width and height are on the node that draws.": [
    "**大きさ。** 約 1 メガピクセルが最適です：1024 x 1024、1248 x 832、832 x 1248。幅と高さは描くノードにあります。",
    "**尺寸。** 约一百万像素最好：1024 x 1024、1248 x 832、832 x 1248。宽和高在绘制的节点上。"
  ],
  "**Prompt.** A few words are enough: *VERIFI Rewrite* writes the description, in the prompt's language. Say what must be there; what you leave open it chooses. Text and prompt together should stay below 512 tokens, about 350 words. No negative is needed: Turbo draws 8 steps at CFG 1.": [
    "**プロンプト。** 短い言葉で足ります。*VERIFI 書き換え* がプロンプトの言語で描写を書きます。欠かせないものを書けば、残りはモデルが選びます。文章とプロンプトは合わせて 512 トークン（約 350 語）以内に。ネガティブは要りません。Turbo は CFG 1、8 ステップで描きます。",
    "**提示词。** 几个词就够：*VERIFI 改写* 用提示词的语言写出描述。写明必须有什么，没写的由它选择。文字和提示词合计应少于 512 个 token，约 350 个英文词。不需要负面提示词：Turbo 以 CFG 1 画 8 步。"
  ],
  "**Prompt.** Here the prompt is read as it is: describe subject, place, light and manner in whole sentences, up to about 350 words (512 tokens). **(word:1.4)** makes a word count more. Raw draws 28 steps at CFG 4.5 and takes several times as long as Turbo; the second drawing adds detail, **denoise** says how much.": [
    "**プロンプト。** ここではプロンプトをそのまま読みます。主題、場所、光、表現を文で、約 350 語（512 トークン）まで書いてください。**(word:1.4)** で語を強められます。Raw は CFG 4.5、28 ステップで描き、Turbo の数倍かかります。二度目の描画が細部を加え、その量は **denoise** で決まります。",
    "**提示词。** 这里原样读取提示词：用完整的句子描述主体、地点、光线和表现方式，最多约 350 个英文词（512 个 token）。**(word:1.4)** 让一个词更重要。Raw 以 CFG 4.5 画 28 步，时间是 Turbo 的数倍；第二次绘制增加细节，程度由 **denoise** 决定。"
  ],
  "**Licence.** The weights come under Krea's own licence, to be read [beside the files](https://huggingface.co/Comfy-Org/Krea-2) before they are used for work; this pack is Apache-2.0.": [
    "**ライセンス。** 重みには Krea 独自のライセンスがあります。仕事に使う前に[ファイルの横](https://huggingface.co/Comfy-Org/Krea-2)で読んでください。このパックは Apache-2.0 です。",
    "**许可。** 权重采用 Krea 自己的许可，用于工作之前请在[文件旁边](https://huggingface.co/Comfy-Org/Krea-2)阅读；本扩展为 Apache-2.0。"
  ],
  "## Regions": [
    "## 領域",
    "## 区域"
  ],
  "Two prompts, each inside its own mask, drawn in **one** pass. Write what stands where, one thing to a region, and paint your own masks: right-click *Load Image*, *Open in Mask Editor*.": [
    "二つのプロンプトが、それぞれのマスクの中だけで働き、**一度**に描かれます。どこに何があるかを、領域ごとに一つ書きます。マスクは自分で塗れます：*画像を読み込む* を右クリックし、*マスクエディタで開く*。",
    "两个提示词各在自己的遮罩内起作用，**一次**画出。写明哪里有什么，每个区域一样东西。遮罩可以自己画：右键 *加载图像*，选择 *用遮罩编辑器打开*。"
  ],
  "A third encode without a *Region*, led into *join* as well, counts everywhere.": [
    "*領域* を通さない三つめのエンコードも *join* につなぐと、どこでも働きます。",
    "第三个不经过 *区域* 的编码同样连到 *join*，则在所有地方起作用。"
  ],
  "## Compare": [
    "## 比較",
    "## 比较"
  ],
  "Press **Run**: the picture is drawn once for every strength, and all stand on one sheet. What the setting does not change runs once, and the encoder not at all.": [
    "**実行** を押すと、強さごとに一枚ずつ描かれ、一枚のシートに並びます。設定が変えない部分は一度だけ動き、エンコーダーはもう動きません。",
    "按 **运行**：每个强度画一张，全部排在一张图上。设置不影响的部分只运行一次，编码器不再运行。"
  ],
  "Choose another **setting** (seed, layer gains, system prompt), or *any input* and write the node's number and the input, such as **5.cfg**, into **which**.": [
    "ほかの **setting**（シード、層のゲイン、システムプロンプト）も選べます。*任意の入力* なら、ノードの番号と入力を **5.cfg** のように **which** に書きます。",
    "也可以选别的 **setting**（种子、层增益、系统提示词），或选 *任意输入*，并在 **which** 中写节点编号和输入，例如 **5.cfg**。"
  ],
  "**Size and memory:** model and encoder have 4 billion parameters each, about 8 GB a file in bf16; ComfyUI loads one after the other.": [
    "**大きさとメモリ：** モデルとエンコーダーはそれぞれ 40 億パラメーター、bf16 で一つ約 8 GB です。ComfyUI は順に読み込みます。",
    "**大小和内存：** 模型和编码器各有 40 亿参数，bf16 每个文件约 8 GB；ComfyUI 依次加载。"
  ],
  "**Licence:** 4B: Apache 2.0; 9B: FLUX non-commercial.": [
    "**ライセンス：** 4B は Apache 2.0、9B は FLUX 非商用。",
    "**许可：** 4B 为 Apache 2.0；9B 为 FLUX 非商用。"
  ],
  "**Prompts:** a few words; Qwen3-4B, which is loaded anyway, writes them out in your language. The text is then read as a prompt, which is nearest to the model's training; another **selection** takes the states of the pass that wrote.": [
    "**プロンプト：** 短い言葉で足ります。どのみち読み込まれる Qwen3-4B が、あなたの言語で書き広げます。文章は続いてプロンプトとして読まれ、これがモデルの学習に最も近い形です。ほかの **selection** では、書いたときの状態を使います。",
    "**提示词：** 几个词即可；反正要加载的 Qwen3-4B 会用你的语言展开。文字随后作为提示词读取，这最接近模型的训练；其他 **selection** 使用书写时的状态。"
  ],
  "**Size and memory:** 20.8 GB of files; model and encoder are loaded one after the other.": [
    "**大きさとメモリ：** ファイルは 20.8 GB。モデルとエンコーダーは順に読み込まれます。",
    "**大小和内存：** 文件共 20.8 GB；模型和编码器依次加载。"
  ],
  "**Licence:** Apache 2.0.": [
    "**ライセンス：** Apache 2.0。",
    "**许可：** Apache 2.0。"
  ],
  "**Prompts:** a few words in English or Chinese; Qwen3-4B, which is loaded anyway, writes out what a camera would see, in your language. Words to be read stand in quotation marks.": [
    "**プロンプト：** 英語か中国語の短い言葉。どのみち読み込まれる Qwen3-4B が、カメラに写るものをあなたの言語で書きます。画像の中に読ませる文字は引用符で囲みます。",
    "**提示词：** 几个英文或中文词；反正要加载的 Qwen3-4B 会用你的语言写出镜头所见。要出现在图中的文字放在引号里。"
  ],
  "**Size and memory:** about 51 GB of files with the model in bf16, and the small CLIP that writes.": [
    "**大きさとメモリ：** bf16 のモデルと、文章を書く小さな CLIP を合わせて約 51 GB。",
    "**大小和内存：** bf16 模型加上负责书写的小 CLIP，文件共约 51 GB。"
  ],
  "**Prompts:** an instruction. ComfyUI 0.30 cannot write with this model's own encoder, so Qwen3-VL-4B writes it out and *VLM Encode* inside the subgraph reads text and picture. Without the second CLIP, write into *VLM Encode*.": [
    "**プロンプト：** 編集の指示。ComfyUI 0.30 はこのモデルのエンコーダーで文章を書けないため、Qwen3-VL-4B が書き、サブグラフ内の *VLM エンコード* が文章と画像を読みます。二つめの CLIP がなければ *VLM エンコード* に直接書いてください。",
    "**提示词：** 一条编辑指令。ComfyUI 0.30 不能用此模型自己的编码器书写，所以由 Qwen3-VL-4B 写出，子图中的 *VLM 编码* 读取文字和图片。没有第二个 CLIP 时，直接写在 *VLM 编码* 里。"
  ],
  "**Size and memory:** 26.5 GB of files in fp8; two drawing models guide each other.": [
    "**大きさとメモリ：** fp8 のファイルが 26.5 GB。二つの描画モデルが互いに導きます。",
    "**大小和内存：** fp8 文件共 26.5 GB；两个绘图模型相互引导。"
  ],
  "**Licence:** Ideogram's non-commercial agreement.": [
    "**ライセンス：** Ideogram の非商用契約。",
    "**许可：** Ideogram 非商用协议。"
  ],
  "**Prompts:** a few words; Qwen3-VL-8B, which is loaded anyway, writes the JSON caption that the model was trained with, in your language. A caption that breaks off is closed and the report says so: raise **max_length**. A caption of your own goes into **edited_text**.": [
    "**プロンプト：** 短い言葉で足ります。どのみち読み込まれる Qwen3-VL-8B が、モデルの学習と同じ JSON の説明文をあなたの言語で書きます。途中で切れた説明文は閉じられ、レポートに書かれます。その場合は **max_length** を上げてください。自分の説明文は **edited_text** に入れます。",
    "**提示词：** 几个词即可；反正要加载的 Qwen3-VL-8B 会用你的语言写出模型训练时所用的 JSON 描述。中断的描述会被补全，报告中会说明：请调高 **max_length**。自己的描述写进 **edited_text**。"
  ]
};
const COLUMN = { en: -1, ja: 0, zh: 1 };

/** Every known line, in whatever language, to its English one. */
const ENGLISH = new Map(Object.entries(LINES).flatMap(([line, others]) => [line, ...others].map((one) => [one, line])));

const translated = (line, column) => {
  const english = ENGLISH.get(line);
  return english === undefined ? line : column < 0 ? english : LINES[english][column];
};

app.registerExtension({
  name: "UniFusion.Notes",
  beforeConfigureGraph(graph) {
    const column = COLUMN[language()] ?? -1;
    const nodes = [...(graph?.nodes ?? []), ...(graph?.definitions?.subgraphs ?? []).flatMap((one) => one.nodes ?? [])];
    for (const node of nodes) {
      const text = node?.type === "MarkdownNote" ? node.widgets_values?.[0] : null;
      if (typeof text !== "string") continue;
      const lines = text.split("\n").map((line) => translated(line, column));
      if (lines.every((line, index) => line === text.split("\n")[index])) continue; // not a note of this pack
      node.widgets_values[0] = lines.join("\n");
      if (typeof node.title === "string") node.title = translated(node.title, column);
    }
  },
});
