"""Texts for comparing tokenizers: generated ones, and real files if they exist next to the checkout.

`sample(name)` returns UTF-8 bytes. NAMES lists the generated texts, which every clone tests, then the real files.
"""

import random
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
REAL = ["tinystories_valid.txt", "udhr_multilingual.txt", "dickens.txt"]

PROSE = """
"I don't know," said the miller's daughter, "whether they'll come; we've waited since 6:45 and you're tired." It was
1,204 steps -- or 1,240? -- to the top... He'd counted them twice: once in '98, and once (wrongly!) in 2003. WE'RE LATE,
THEY SAID. The half-built bridge_over_the_river cost $3,500.75, i.e. 12.5% more than o'clock or rock'n'roll ever did.
def area(width, height):\n\treturn width * height  # m²\n    indented = {"key": [1, 22, 333, 4444]}\r\n
Mail anna@example.org or see https://example.org/a/b?c=d&e=f#g; the file is C:\\temp, 64 KiB,
naïve café, coöperate.
"""
SCRIPTS = """
Die Müllerstochter wußte nicht, ob größere Brücken über den Fluß führten. | L'été, où l'on dînait à l'ombre, n'est plus.
Żółw szedł powoli przez łąkę, aż zobaczył źródło. | ¿Dónde está el niño? ¡Mañana vendrá con su abuelo!
Старый мост через реку построили в 1897 году. | Η γέφυρα πάνω από το ποτάμι είναι παλιά. | Ποτάμι, ΓΕΦΥΡΑ.
הגשר הישן עומד מעל הנהר. | الجسر القديم فوق النهر منذ عام ١٩٢٠. | पुराना पुल नदी के ऊपर है, संख्या १२३।
সেতুটি নদীর উপরে। | பழைய பாலம் ஆற்றின் மேல் உள்ளது. | สะพานเก่าข้ามแม่น้ำมีอายุ ๑๐๐ ปี | ძველი ხიდი მდინარეზე.
古い橋が川の上にあります。電車は８時に来ます。カタカナもある。 | 那座老桥在河上已经一百二十年了，很漂亮！
강 위에 오래된 다리가 있습니다.
Cầu cũ bắc qua sông đã một trăm năm. | Հին կամուրջը գետի վրա է։ | አሮጌው ድልድይ ከወንዙ በላይ ነው።
👩‍🚀🚲 e\u0301te\u0301 𝐀𝟘 ⅷ ½ ₀ \ufeff\u3000\u00a0
"""


def _shuffled(source: str, size: int, breaks: list[str]) -> bytes:
    """At least `size` bytes of the source's words in random order, separated by its own and other whitespace."""
    random_words = random.Random(7)
    words, parts, length = source.replace("|", " ").split(" "), [], 0
    while length < size:
        part = random_words.choice(words) + random_words.choice(breaks)
        parts.append(part)
        length += len(part.encode())
    return "".join(parts).encode()


GENERATED = {
    "prose": lambda: _shuffled(PROSE, 200_000, [" "] * 12 + ["\n", "\n\n", "  ", "", "<|endoftext|>"]),
    "scripts": lambda: (
        SCRIPTS.encode() + _shuffled(SCRIPTS, 300_000, [" "] * 8 + ["", "\n", "\u3000", "\r\n\t"])
    ),
}
NAMES = [*GENERATED, *REAL]


def sample(name: str) -> bytes:
    """The text of that name; skips the test if it is a real file that does not exist."""
    if name in GENERATED:
        return GENERATED[name]()
    if not (SHARED / name).exists():
        pytest.skip(f"{SHARED / name} does not exist")
    return (SHARED / name).read_bytes()
