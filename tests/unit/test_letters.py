import pytest

from unifusion.letters import script_of


@pytest.mark.parametrize(
    "text, script",
    [
        ("a red fox", "Latin"),
        ("Füchse über Straße", "Latin"),
        ("雪地里的一只红狐狸", "Chinese or Japanese"),
        ("雪の中の赤いキツネ", "Chinese or Japanese"),
        ("눈 속의 붉은 여우", "Korean"),
        ("рыжая лиса в снегу", "Cyrillic"),
        ("ثعلب أحمر في الثلج", "Arabic"),
        ('a sign that says "雪地里的一只红狐狸" above a door', "Latin"),
        ("写着“OPEN ALL NIGHT”的招牌", "Chinese or Japanese"),
        ("8K 猫, 1234", None),
        ("", None),
        ("🦊🦊🦊 123", None),
        ("fox 狐狸狐 лиса", None),
    ],
)
def test_the_letters_that_prevail(text, script):
    assert script_of(text) == script
