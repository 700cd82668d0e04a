"""Tables and folders as clinics and other data sets have them: read where there is one reading, refused otherwise."""

import io
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ham_hf.data.image_io import read_image
from ham_hf.data.lesions import look_alikes
from ham_hf.data.spreadsheet import read_column_names, read_table
from ham_hf.inference.predict import read_patients
from ham_hf.labels import LABELS
from ham_hf.system.errors import InputError
from tests.helpers import small_data
from tests.helpers.small_data import load, write_image

DICOM = bytes(128) + b"DICM" + bytes(100)
ROW = {"image_id": "a", "lesion_id": "L", "dx": "nv", "age": "45", "sex": "male", "localization": "back"}
refusal = partial(small_data.refusal, split="all")


@pytest.fixture
def read(tmp_path):
    """Return the columns and the lines of a table with this text."""

    def read(text: str) -> tuple[dict, list[int]]:
        path = tmp_path / "table.csv"
        path.write_text(text, encoding="utf-8")
        table = read_table(path, ("image_id", "dx"))
        assert list(table.columns) == [name for name in read_column_names(path, ("image_id", "dx")) if name]
        return table.to_dict("list"), list(table.index)

    return read


def images(folder: Path, *names: str) -> Path:
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, seed)
    return folder


def own(folder: Path, **values: str) -> dict:
    """Return the first row of a table with ROW and these values, as `load` reads it; the image is there."""
    row = ROW | values
    (folder / "mine.csv").write_text(f"{','.join(row)}\n" + ",".join(f'"{value}"' for value in row.values()))
    images(folder, "a.jpg")
    splits, _ = load(folder, metadata_csv=folder / "mine.csv", split="all")
    return splits["test"].remove_columns("image")[0]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("image_id,dx,,\na,nv,,\nb,mel,,\n,,,\n,,,\n", [2, 3]),
        ("\n,\nimage_id,dx\na,nv\n\nb,mel\n", [4, 6]),
        ("Clinic 7; 2024\n\nimage_id;dx\na;nv\nb;mel\n", [4, 5]),
        ("Export of 2024,,\nimage_id,dx,\na,nv,\nb,mel,\n", [3, 4]),
        ("# exported\nImage ID|DX\na|nv\nb|mel\n", [3, 4]),
        (",IMAGE-ID,Dx\n0,a,nv\n1,b,mel\n", [2, 3]),
    ],
)
def test_lines_around_a_table_are_skipped(text, lines, read):
    if text.startswith("Clinic"):  # its title looks like a header
        text = text.replace(";", "", 1)
    assert read(text) == ({"image_id": ["a", "b"], "dx": ["nv", "mel"]}, lines)


def test_line_numbers_are_right_if_cells_contain_line_breaks(read):
    columns, lines = read('image_id,"note\n(free)",dx\na,"one\ntwo",nv\nb,x,mel\n')
    assert columns["dx"] == ["nv", "mel"] and lines == [3, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image_id,dx\na,nv,left\n", "line 2: 'left' is in a column without a name"),
        ("image_id,dx,\na,nv,\nb,nv,left\n", "line 3: 'left' is in a column without a name"),
        ("image_id,dx,DX\na,nv,mel\n", "has the column 'dx' more than once"),
        ("image_id,dx, dx \na,nv,mel\n", "has the column 'dx' more than once"),
        ('{"image_id": "a", "dx": "nv"}\n', "is a JSON file"),
        ("PAR1\0\0", "is a Parquet file"),
        ("\n,,\n", "it has no values"),
    ],
)
def test_ambiguous_tables_are_refused(text, expected, read):
    with pytest.raises(InputError, match=expected):
        read(text)


@pytest.mark.parametrize("word", ["-", "?", "N.A.", "#N/A", "Unknown"])
def test_words_for_missing_values_are_understood(word, tmp_path):
    row = own(tmp_path, lesion_id=word, age=word, sex=word, localization=word)
    assert (row["lesion_id"], row["age"], row["sex"], row["localization"]) == ("a", None, "unknown", "unknown")
    assert "lesions of 1 of 1 images are unknown" in refusal(
        tmp_path, metadata_csv=tmp_path / "mine.csv", split="grouped"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"age": "45 years"}, {"age": 45.0}),
        ({"age": "045Y"}, {"age": 45.0}),
        ({"sex": "F"}, {"sex": "female"}),
        ({"localization": "Back"}, {"localization": "back"}),
        ({"image_id": r"C:\images\a.jpg"}, {"image_id": "a"}),
        ({"image_id": "images/a.jpg"}, {"image_id": "a"}),
    ],
)
def test_unambiguous_values_are_read(given, expected, tmp_path):
    row = own(tmp_path, **given)
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"age": "1978"}, "age is '1978', expected 0 to 120 years"),
        ({"age": "2024-05-01"}, "age is '2024-05-01', expected a number of years"),
        ({"age": "018M"}, "age is '018M', expected a number of years"),
        ({"sex": "1"}, "sex is '1', expected male, female or unknown"),
        ({"image_id": "A"}, r"Is a.jpg image 'A'\? Then make the names agree: expected A.jpg"),
    ],
)
def test_ambiguous_values_are_refused(given, expected, tmp_path):
    with pytest.raises(InputError, match=expected):
        own(tmp_path, **given)


def test_files_with_the_same_name_are_ambiguous(tmp_path):
    images(tmp_path, "x/a.jpg", "y/a.jpg")
    (tmp_path / "mine.csv").write_text("image_id,dx\nx/a.jpg,nv\ny/a.jpg,mel\n")
    assert "files of one name in several folders: a" in refusal(tmp_path, metadata_csv=tmp_path / "mine.csv")


def test_hidden_files_are_not_images(tmp_path):
    images(tmp_path, ".trash/a.jpg", "__MACOSX/nv/._a.jpg", "nv/._b.jpg", "nv/b.jpg")
    (tmp_path / "._X_GroundTruth.csv").write_bytes(b"\0")
    own(tmp_path)
    assert load(tmp_path, split="all")[0]["test"]["image_id"][:] == ["b"]  # of the class folder nv


@pytest.mark.parametrize("packed", [True, False])
def test_dicom_files_in_zips_and_class_folders_are_reported(packed, tmp_path):
    images(tmp_path, "nv/a.jpg", "mel/b.jpg")
    changes = {}
    if packed:
        (tmp_path / "mine.csv").write_text("image_id,dx\na,nv\nb,mel\nc,mel\n")
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
            archive.writestr("mel/c.dcm", DICOM)
        changes = {"metadata_csv": tmp_path / "mine.csv"}
    else:
        (tmp_path / "mel" / "c.dcm").write_bytes(DICOM)
        (tmp_path / "mel" / "b.mov").write_bytes(b"of a live photo")
    assert "1 of 3 images" in refusal(tmp_path, **changes) and "c: a DICOM file" in refusal(tmp_path, **changes)


def test_a_broken_link_in_a_class_folder_is_a_missing_image(tmp_path):
    images(tmp_path, "nv/a.jpg")
    (tmp_path / "nv" / "b.jpg").symlink_to(tmp_path / "gone.jpg")
    assert "1 of 2 images are missing" in refusal(tmp_path)


def test_class_folders_with_other_names_require_a_map_and_may_have_lesions(tmp_path):
    images(tmp_path, "0/a.jpg", "0/b.jpg", "1/c.jpg")
    assert "--diagnosis_map says what other folders hold" in refusal(tmp_path)
    changes = {"split": "all", "diagnosis_map": {"0": "nv", "1": "mel"}}
    splits, facts = load(tmp_path, **changes)
    assert [LABELS[label] for label in splits["test"]["label"]] == ["nv", "nv", "mel"]
    assert facts["splits"]["test"]["unknown_lesions"] == 3
    (tmp_path / "X_LesionGroupings.csv").write_text("image,lesion_id\na,L\nb,L\nc,M\n")
    assert load(tmp_path, **changes)[0]["test"]["lesion_id"][:] == ["L", "L", "M"]


def test_the_folder_may_name_the_diagnosis_and_must_not_contradict_it(tmp_path):
    images(tmp_path, "nv/a.jpg", "mel/b.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,age\nnv/a.jpg,40\nmel/b.jpg,50\n")
    splits, _ = load(tmp_path, split="all")
    assert splits["test"]["age"] == [40.0, 50.0] and [LABELS[i] for i in splits["test"]["label"]] == ["nv", "mel"]
    (tmp_path / "metadata.csv").write_text("file_name,label\nnv/a.jpg,nv\nmel/b.jpg,nevus\n")
    assert "line 3: mel/b.jpg has the diagnoses 'nevus' (label) and 'mel' (its folder)" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,dx,label\na.jpg,mel,nv\n")
    assert "has the diagnoses 'mel' (dx) and 'nv' (label)" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metadata.jsonl", "metadata.jsonl is not supported; save it as metadata.csv"),
        ("train/metadata.csv", "train/metadata.csv is in a subfolder; use "),
        ("archive/HAM10000_metadata.csv", "archive/HAM10000_metadata.csv is in a subfolder; use "),
    ],
)
def test_tables_in_subfolders_or_other_formats_are_named(name, expected, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("file_name,label\na.jpg,nv\n")
    assert expected in refusal(images(tmp_path, "a.jpg"))


@pytest.mark.parametrize("column", ["image", "isic_id"])
def test_lesions_come_from_the_table_beside_a_ground_truth(column, tmp_path):
    images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "ISIC_2019_Training_GroundTruth.csv").write_text("image,mel,nv\na,0.0,1.0\nb,1.0,0.0\n")
    name = "metadata.csv" if column == "isic_id" else "ISIC_2019_Training_Metadata.csv"
    (tmp_path / name).write_text(f"{column},age_approx,lesion_id\na,50,L\nb,60,\n")
    splits, facts = load(tmp_path, split="all")
    assert splits["test"]["lesion_id"][:] == ["L", "b"] and facts["splits"]["test"]["unknown_lesions"] == 1
    assert [LABELS[label] for label in splits["test"]["label"]] == ["nv", "mel"]


def test_an_export_and_a_ground_truth_with_diagnoses_are_two_tables(tmp_path):
    images(tmp_path, "a.jpg")
    (tmp_path / "X_GroundTruth.csv").write_text("image,MEL,NV\na,0,1\n")
    (tmp_path / "metadata.csv").write_text("isic_id,diagnosis,lesion_id\na,melanoma,L\n")
    assert "several tables" in refusal(tmp_path) and "choose one with --metadata_csv" in refusal(tmp_path)
    splits, _ = load(tmp_path, metadata_csv=tmp_path / "X_GroundTruth.csv", split="all")
    assert LABELS[splits["test"]["label"][0]] == "nv" and splits["test"]["lesion_id"][:] == ["L"]


def test_names_are_not_read_as_numbers(read, tmp_path):
    columns, _ = read("image_id;dx;lesion_id;age\n1,2;nv;3,4;5,6\n")
    assert columns == {"image_id": ["1,2"], "dx": ["nv"], "lesion_id": ["3,4"], "age": ["5.6"]}
    assert look_alikes(["12", "12.0", "13"]) == [["12", "12.0"]]


def test_other_files_in_class_folders_are_named(tmp_path, caplog):
    images(tmp_path, "nv/a.jpg")
    (tmp_path / "nv" / "b").write_bytes((tmp_path / "nv" / "a.jpg").read_bytes())
    (tmp_path / "mel.zip").write_bytes(b"")
    assert load(tmp_path, split="all")[0]["test"]["image_id"][:] == ["a"]
    assert "not read as images of class folders: " in caplog.text
    assert "1 without a suffix" in caplog.text and "1 .zip" in caplog.text


@pytest.mark.parametrize("option", ["data_dir", "metadata_csv", "split"])
def test_a_path_that_is_too_long_is_an_input_error(option, tmp_path):
    own(tmp_path)
    changes = {"metadata_csv": tmp_path / "mine.csv"} | {option: "x" * 300}
    assert "File name too long" in refusal(changes.pop("data_dir", tmp_path), **changes)


def test_a_file_name_that_is_too_long_is_an_input_error(tmp_path):
    images(tmp_path, "a.jpg")
    (tmp_path / "metadata.csv").write_text(f"file_name,label\n{'x' * 300}.jpg,nv\n")
    assert "File name too long" in refusal(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", "\t"])
def test_the_patient_table_may_be_saved_by_a_spreadsheet_program(separator, encoding, tmp_path):
    rows = [["File", "Age", "Sex", "Localization", ""], ["a.jpg", '"45,5"', "M", "Back", ""], ["", "", "", "", ""]]
    rows += [["b.jpg", "n.a.", "?", "", ""]]
    path = tmp_path / "patients.csv"
    path.write_bytes("\r\n".join(map(separator.join, rows)).encode(encoding))
    assert read_patients(path, [Path("a.jpg"), Path("b.jpg")]) == [(45.5, "male", "back"), (None, None, None)]


@pytest.mark.parametrize("age", ["nan", "inf", "1_0", "４５", "1978-01-01"])
def test_numbers_that_only_python_understands_are_not_ages(age, tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text(f"file,age,sex,localization\na.jpg,{age},,\n", encoding="utf-8")
    if age == "nan":
        assert read_patients(path, [Path("a.jpg")]) == [(None, None, None)]
        return
    with pytest.raises(InputError, match="line 2: age is .*expected a number of years, or nothing"):
        read_patients(path, [Path("a.jpg")])


# Images


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_tiff_of_several_pages_is_refused_and_smaller_copies_are_not_pages():
    page = Image.new("RGB", (80, 60), "red")
    several = encoded(page.resize((8, 6)), "TIFF", save_all=True, append_images=[page])
    with pytest.raises(InputError, match="a TIFF of 2 pages: save the page with the lesion as a separate file"):
        read_image(several)
    copy = page.resize((8, 6))
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    copy.encoderinfo = {"tiffinfo": tags}
    assert read_image(encoded(page, "TIFF", save_all=True, append_images=[copy])).size == (80, 60)


def test_twelve_bits_stored_in_16_are_refused():
    values = np.arange(4800, dtype=np.uint16).reshape(60, 80) % 4096
    with pytest.raises(InputError, match="16 bits per pixel, of which only 12 are used"):
        read_image(encoded(Image.fromarray(values), "PNG"))
    assert np.asarray(read_image(encoded(Image.fromarray(values * 16), "PNG"))).max() == 255


def test_an_empty_image_file_is_named():
    with pytest.raises(InputError, match="an empty file: copy it again"):
        read_image(b"")
