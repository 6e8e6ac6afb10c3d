// What a choice is called in the creator's language. Saved graphs keep the English value; only what is shown changes.
import { app } from "../../../scripts/app.js";
import { language } from "./words.js";

const CHOICES = {
  "auto": ["自動", "自动"],
  "off": ["オフ", "关闭"],
  "none": ["なし", "无"],
  "default": ["既定", "默认"],
  "custom": ["自分で決める", "自定义"],
  "as the profile": ["プロファイルに従う", "按配置"],
  "as the model": ["モデルに従う", "按模型"],
  "fixed": ["固定", "固定"],
  "by resolution": ["解像度で決める", "按分辨率"],
  "by steps and resolution": ["ステップ数と解像度で決める", "按步数和分辨率"],
  "greedy": ["いちばん確からしい文章", "最可能的文字"],
  "sample": ["毎回違う文章", "按种子变化"],
  "faithful detail": ["忠実に詳しく", "忠实细化"],
  "photograph": ["写真", "照片"],
  "illustration": ["イラスト", "插画"],
  "typography": ["文字のデザイン", "文字排版"],
  "edit instruction": ["編集の指示", "编辑指令"],
  "keep it short": ["短く", "保持简短"],
  "reason first, then describe": ["考えてから描写する", "先思考再描述"],
  "translate to English": ["英語に訳す", "译成英文"],
  "images and rewritten text": ["画像と書き直した文章", "图片和改写的文字"],
  "rewritten text only": ["書き直した文章だけ", "仅改写的文字"],
  "everything": ["すべて", "全部"],
  "everything after the system prompt": ["システムプロンプトの後すべて", "系统提示词之后的全部"],
  "encode the rewritten text as a prompt": ["書き直した文章をプロンプトとして読む", "把改写的文字当作提示词读取"],
  "images and prompt": ["画像とプロンプト", "图片和提示词"],
  "prompt only": ["プロンプトだけ", "仅提示词"],
  "images only": ["画像だけ", "仅图片"],
  "one view": ["一枚のまま", "整图一次"],
  "own labels": ["自分のラベル", "自己的标签"],
  "all pages": ["すべてのページ", "全部页面"],
  "one page": ["一ページで", "一页"],
  "every page": ["全ページ", "每一页"],
  "layers": ["層", "层"],
  "words": ["語", "词"],
  "pictures": ["画像", "图片"],
  "tokens": ["トークン", "token"],
  "1.45 on tap 11": ["11 番目の層を 1.45 倍", "第 11 层 1.45 倍"],
  "more detail (late taps 1.2)": ["細部を強く（後ろの層 1.2）", "更多细节（后层 1.2）"],
  "more layout (early taps 1.2)": ["構図を強く（前の層 1.2）", "更重构图（前层 1.2）"],
  "whole": ["全体", "整体"],
  "style": ["作風", "风格"],
  "palette": ["配色", "配色"],
  "layout": ["構図", "构图"],
  "subject": ["主題", "主体"],
  "read, not shown": ["読むだけで見せない", "只读取不呈现"],
  "picture job": ["画像の役割", "图片的作用"],
  "all": ["すべて", "全部"],
  "shallow": ["浅い層", "浅层"],
  "deep": ["深い層", "深层"],
  "ground": ["背景", "背景"],
  "strength": ["強さ", "强度"],
  "layer gains": ["層のゲイン", "层增益"],
  "layer left out": ["外す層", "去掉的层"],
  "system prompt": ["システムプロンプト", "系统提示词"],
  "seed": ["シード", "种子"],
  "any input": ["任意の入力", "任意输入"],
  "3 tiles": ["3 枚に分ける", "分成 3 块"],
  "4 tiles": ["4 枚に分ける", "分成 4 块"],
  "5 tiles": ["5 枚に分ける", "分成 5 块"],
  "6 tiles": ["6 枚に分ける", "分成 6 块"],
  "7 tiles": ["7 枚に分ける", "分成 7 块"],
  "8 tiles": ["8 枚に分ける", "分成 8 块"],
  "9 tiles": ["9 枚に分ける", "分成 9 块"],
  "10 tiles": ["10 枚に分ける", "分成 10 块"],
  "red circle on white": ["白地に赤い円", "白底红圆"],
  "red heart on white": ["白地に赤いハート", "白底红心"],
  "yellow star on navy": ["紺地に黄色い星", "藏青底黄星"],
  "green striped circle on navy": ["紺地に緑の縞の円", "藏青底绿色条纹圆"],
  "blue square and pink ring on beige": ["ベージュ地に青い四角とピンクの輪", "米色底蓝方块和粉环"]
};
const COLUMN = { ja: 0, zh: 1 };

app.registerExtension({
  name: "UniFusion.Choices",
  beforeRegisterNodeDef(nodeType, definition) {
    if (!definition.name.startsWith("UniFusion")) return;
    const { onNodeCreated } = nodeType.prototype;
    nodeType.prototype.onNodeCreated = function (...args) {
      onNodeCreated?.apply(this, args);
      const column = COLUMN[language()];
      if (column === undefined) return;
      for (const widget of this.widgets ?? [])
        if (widget.type === "combo") widget.options.getOptionLabel ??= (value) => CHOICES[value]?.[column] ?? value ?? "";
    };
  },
});
