"""VLSU (Vision Language Safety Understanding): severity of a picture, of a text, and of the two together.

The published table has addresses of pictures, of which many are dead. So items without a picture are always left out,
counted and named: two figures on it are comparable where they are of the same items.
"""

from ..items import Item, Label
from .benchmark import Benchmark, Loaded, user_turn
from .folder import DataFolder
from .tables import Row, read_csv


GRADES = ("safe", "borderline", "unsafe")  # rising
COLUMNS = (
    "prompt",
    "uuid",
    "image_grade",
    "consensus_text_grade",
    "consensus_combined_grade",
    "combined_category",
)


def read(data: DataFolder) -> Loaded:
    pictures = data.pictures("images", "data/images", "data/VLSU_images")
    items, missing = [], []
    for row in read_csv(data, COLUMNS, "data/VLSU.csv", "VLSU.csv"):
        grade = _grade(row, "consensus_combined_grade")
        if grade == "not_sure":
            missing.append(f"{row.label('uuid')}: its graders were not sure")
            continue
        labels: dict[str, Label] = {
            "grade": grade,
            "severity": GRADES.index(grade),
            "image_grade": _grade(row, "image_grade"),
            "text_grade": _grade(row, "consensus_text_grade"),
            "category": row.text("combined_category"),
        }
        # A borderline pair is on neither side: neither an answer to it nor a refusal is wrong for sure.
        if grade != "borderline":
            labels["is_risky"] = grade == "unsafe"
        image = pictures.path_by_stem(row.label("uuid"))
        items.append(Item(row.label("uuid"), [image], user_turn(row.text("prompt")), labels=labels))
    return Loaded(items, missing)


def _grade(row: Row, name: str) -> str:
    grade = row.text(name).strip().lower()
    if grade not in (*GRADES, "not_sure"):
        raise row.error(f"{name!r} is {grade[:80]!r}, expected {', '.join(GRADES)} or not_sure")
    return grade


BENCHMARK = Benchmark(
    name="vlsu",
    title="VLSU: severity in three steps",
    source="github.com/apple/ml-vlsu",
    licence="not verified; one user of it names CC-BY-NC-ND for the data",
    size="8,187 pairs in the paper, 11,074 rows in the table",
    metric=(
        "quadratic weighted kappa, macro F1 and error of the combined severity; attack success on unsafe pairs and "
        "over-refusal on safe ones, borderline ones in neither"
    ),
    where_to_get=(
        "git clone https://github.com/apple/ml-vlsu (data/VLSU.csv), and download `web_path` of each row as "
        "images/UUID.jpg; dead links are counted"
    ),
    read=read,
    steps=GRADES,
    has_dead_pictures=True,
)
