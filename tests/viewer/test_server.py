"""``medsoft view``: what is found, who is let in, and what is answered; the page itself is in test_page.py."""

import builtins
import io
import json
import re
import sys
import threading

import cv2
import nibabel
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from starlette.testclient import TestClient

from medsoft.errors import InputError
from medsoft.evaluation.comparison.reader_study import read_reviews
from medsoft.slides.reading.slide import open_slide
from medsoft.viewer.app import make_app
from medsoft.viewer.deep_zoom import Pyramid
from medsoft.viewer.find import find_cases
from medsoft.viewer.serve import listen, make_server, serve
from tests.builders.view import SLIDE_PX, STRONGEST, TILE_PX0, write_run, write_slides_folder, write_volume_run
from tests.builders.waiting import wait_until

TOKEN = "secret"
HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viewed")
    return {
        "run": write_run(folder / "pictures"),
        "slides": write_slides_folder(folder / "slides"),
        "volume": write_volume_run(folder / "volumes"),
    }


def client_of(*paths, patients=False, token=TOKEN) -> TestClient:
    app = make_app(find_cases([str(path) for path in paths], patients), TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return TestClient(app, base_url=HERE, headers=headers)


@pytest.fixture(scope="module")
def client(files):
    return client_of(files["run"], files["slides"], files["volume"], files["slides"].parent / "regions")


def number_of(client: TestClient, name: str) -> int:
    return [case["name"] for case in client.get("/api/cases").json()["cases"]].index(name)


# ---- who is let in


def test_only_who_knows_the_token_is_let_in(files):
    asks = ["/", "/static/main.js", "/api/cases", "/api/cases/0", "/api/cases/0/pixels", "/report/0", "/nothing"]
    stranger = client_of(files["run"], token="")
    for path in asks:
        assert stranger.get(path).status_code == 401, path
        assert stranger.get(path, params={"token": "guess"}).status_code == 403, path
        assert stranger.get(path, headers={"Authorization": "Bearer guess"}).status_code == 403, path
    assert stranger.put("/api/cases/0/review", json={"verdict": "agree", "note": ""}).status_code == 401
    assert "set-cookie" not in stranger.get("/", params={"token": "guess"}).headers


def test_the_token_of_the_address_becomes_a_cookie(files):
    guest = client_of(files["run"], token="")
    page = guest.get("/", params={"token": TOKEN})
    assert page.status_code == 200
    assert "<title>medsoft view</title>" in page.text
    cookie = page.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert guest.get("/api/cases").status_code == 200


def test_names_of_other_hosts_and_pages_of_others_are_refused(client):
    assert client.get("/api/cases", headers={"Host": "evil.example"}).status_code == 403
    review = {"verdict": "agree", "note": ""}
    put = client.put("/api/cases/0/review", json=review, headers={"Origin": "http://evil.example"})
    assert put.status_code == 403
    plain = client.put("/api/cases/0/review", content=json.dumps(review), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 415


def test_every_answer_has_a_strict_policy(client):
    for path in ("/", "/static/main.js", "/api/cases", "/nothing", "/report/0"):
        policy = client.get(path).headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'"), path
        assert "unsafe-eval" not in policy
        assert "http" not in policy
    assert "script-src" not in client.get("/report/0").headers["Content-Security-Policy"]
    assert "unsafe-inline" not in client.get("/").headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "vendor/../../app.py", "/etc/passwd", "vendor", "", "main.js%00"],
)
def test_nothing_outside_of_the_page_is_given(client, path):
    assert client.get(f"/static/{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("99", "-1", "0/volume.nii", "0/tiles/slide/0/0/0", "1/contributions", "6/tiles/slide/99/0/0"),
        *("6/tiles/slide/11/99/0", "6/tiles/9/11/0/0", "6/tiles/other/11/0/0", "6/strip/0/99", "6/strip/9/0"),
    ],
)
def test_what_is_not_there_is_not_found(client, path):
    assert client.get(f"/api/cases/{path}").status_code == 404
    assert client.get("/report/9").status_code == 404


def test_a_link_that_leads_out_of_the_folder_is_left_out(tmp_path):
    (tmp_path / "named").mkdir()
    (tmp_path / "other").mkdir()
    for place in ("named", "other"):
        Image.new("L", (8, 8), 3).save(tmp_path / place / f"{place}.png")
    (tmp_path / "named" / "link.png").symlink_to(tmp_path / "other" / "other.png")
    (tmp_path / "named" / "links").symlink_to(tmp_path / "other")
    found = find_cases([str(tmp_path / "named")])
    assert [case.name for case in found.cases] == ["named.png"]
    assert any("lead out of this folder" in note for note in found.notes)


# ---- what is found


def test_a_run_is_listed_with_its_predictions(client):
    listed = client.get("/api/cases").json()
    cases = {case["name"]: case for case in listed["cases"]}
    assert [cases[f"im{n}"]["wrong"] for n in range(6)] == [False, True, False, True, False, None]
    assert [cases[f"im{n}"]["far"] for n in range(4)] == [False, False, True, False]
    assert [round(cases[f"im{n}"]["sure"], 6) for n in range(4)] == [0.9, 0.8, 0.8, 0.55]
    assert [cases[f"im{n}"]["kind"] for n in range(6)] == ["picture"] * 4 + ["none"] * 2
    assert "is not where the table says" in client.get("/api/cases/5").json()["missing"]
    assert (cases["a"]["kind"], cases["v"]["kind"]) == ("slide", "volume")


def test_columns_of_patients_are_sent_only_where_they_are_asked_for(client, files):
    everything = client.get("/api/cases").text
    assert "PATIENT" not in everything
    assert "Ann" not in everything
    assert str(files["run"].parent) not in everything
    shown = client_of(files["run"], patients=True).get("/api/cases").text
    assert "PATIENT3" in shown
    assert "Ann" in shown


def test_a_table_that_has_gone_leaves_the_predictions(files, tmp_path):
    run = write_run(tmp_path)
    (tmp_path / "data" / "labels.csv").unlink()
    found = find_cases([str(run)])
    assert [case.kind for case in found.cases] == ["none"] * 6
    assert "its table is not here any more" in found.notes[0]


def test_a_folder_of_files_is_told_apart(tmp_path, files):
    Image.new("L", (8, 8), 3).save(tmp_path / "radiograph.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.tif").write_bytes((files["slides"].parent / "scans" / "a.tif").read_bytes())
    (tmp_path / "deep" / "a.geojson").write_text((files["slides"].parent / "regions" / "a.geojson").read_text())
    (tmp_path / "v.nii.gz").write_bytes((files["volume"].parent / "data" / "v.nii.gz").read_bytes())
    found = find_cases([str(tmp_path)])
    assert {case.name: case.kind for case in found.cases} == {
        "deep/a.tif": "slide", "radiograph.png": "picture", "v.nii.gz": "volume",
    }  # fmt: skip
    assert [len(case.regions) for case in found.cases] == [1, 0, 0]


def test_real_dicom_is_told_apart(shared_data):
    found = find_cases([str(shared_data / "dicom_more")])
    kinds = {case.name: case.kind for case in found.cases}
    expected = {"dx_image.dcm": "picture", "mr_series_4": "volume", "sm_image.dcm": "slide"}
    assert expected.items() <= kinds.items()


def test_bad_paths_are_listed_together(medsoft, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    code, _, err = medsoft("view", tmp_path / "empty", tmp_path / "gone", tmp_path / "text.txt", "--open", "false")
    assert code == 2
    for words in ("gone: no such file or folder", "text.txt: is no picture", "empty: holds no run"):
        assert words in err
    assert medsoft("view", tmp_path, "--port", "70000")[0] == 2


# ---- slides


def decoded(answer) -> np.ndarray:
    assert answer.status_code == 200
    return cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_tiles_are_the_slide(client, files):
    number = number_of(client, "a")
    about = client.get(f"/api/cases/{number}").json()
    assert (about["width"], about["height"], about["mpp"]) == (*SLIDE_PX, 0.5)
    with open_slide(files["slides"].parent / "scans" / "a.tif") as slide:
        tile = decoded(client.get(f"/api/cases/{number}/tiles/slide/{about['top']}/1/1"))
        assert np.abs(tile[..., ::-1].astype(int) - slide.read_tile(256, 256, 256, 0.5)).mean() < 2
    edge = decoded(client.get(f"/api/cases/{number}/tiles/slide/{about['top']}/4/3"))
    assert edge.shape == (896 - 3 * 256, 256, 3)
    half = decoded(client.get(f"/api/cases/{number}/tiles/slide/{about['top'] - 1}/2/1"))
    assert half.shape == (448 - 256, 640 - 512, 3)


def test_the_map_lies_where_the_slide_is(client):
    number = number_of(client, "a")
    top = client.get(f"/api/cases/{number}").json()["top"]
    for level in (top, top - 1, top - 2):
        by = 2 ** (top - level)
        size = (-(-SLIDE_PX[1] // by), -(-SLIDE_PX[0] // by))
        drawn = {}
        for layer in ("slide", "0"):
            whole = np.zeros((*size, 4), np.uint8)
            for y in range(0, size[0], 256):
                for x in range(0, size[1], 256):
                    tile = decoded(client.get(f"/api/cases/{number}/tiles/{layer}/{level}/{x // 256}/{y // 256}"))
                    whole[y : y + tile.shape[0], x : x + tile.shape[1], : tile.shape[2]] = tile
            drawn[layer] = whole
        dark = drawn["slide"][..., 1] < 140
        strongest = (drawn["0"][..., 3] == 255) & (drawn["0"][..., 2] > drawn["0"][..., 0].astype(int) + 60)
        for found in (dark, strongest):
            rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            x, y = STRONGEST
            expected = np.array([x, y, x + TILE_PX0, y + TILE_PX0]) / by
            assert np.abs(box - expected).max() <= 1


def test_maps_top_tiles_and_regions_are_known(client):
    number = number_of(client, "a")
    about = client.get(f"/api/cases/{number}").json()
    assert [one["name"] for one in about["maps"]] == ["ill", "healthy"]
    assert about["maps"][0]["top"][0] == {"x": 480, "y": 288, "contribution": 2.0, "side": 96.0}
    strip = decoded(client.get(f"/api/cases/{number}/strip/0/0"))
    assert strip.shape == (TILE_PX0, TILE_PX0, 3)
    assert strip.mean() < 100  # the dark square
    assert [(region["name"], region["rings"][0][:2]) for region in about["regions"]] == [("Tumour", [480.0, 288.0])]
    grid = decoded(client.get(f"/api/cases/{number}/tiles/tiles/{about['top']}/0/0"))
    assert grid[96, 96, 3] > 0
    assert grid[120, 120, 3] == 0


def test_a_slide_without_a_resolution_is_shown_without_a_scale(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.full((256, 320, 3), 200, np.uint8), tile=(64, 64), photometric="rgb")
    about = client_of(tmp_path).get("/api/cases/0").json()
    assert about["width"] == 320
    assert about["mpp"] is None


def test_a_damaged_slide_says_what_is_wrong(tmp_path):
    (tmp_path / "a.svs").write_bytes(b"not a slide")
    client = client_of(tmp_path)
    assert client.get("/api/cases/0").json()["error"]
    answer = client.get("/api/cases/0/tiles/slide/8/0/0")
    assert answer.status_code == 422
    assert str(tmp_path) not in answer.text


def test_what_is_read_for_a_tile_is_bounded():
    alone = Pyramid(61_440, 61_440, 1.0)
    assert alone.downsample(alone.least) == 16
    assert alone.box(alone.least - 1, 0, 0) is None
    whole = Pyramid(61_440, 61_440, 32.0)
    assert whole.size(whole.least)[0] <= 256


# ---- pictures and volumes


def test_the_values_of_a_picture_are_those_of_the_file(client, files):
    answer = client.get("/api/cases/1/pixels")
    facts = json.loads(answer.headers["X-Picture"])
    values = np.frombuffer(answer.content, np.uint16).reshape(facts["height"], facts["width"])
    np.testing.assert_array_equal(values, np.asarray(Image.open(files["run"].parent / "data" / "im1.png")))
    assert (facts["lowest"], facts["highest"], facts["channels"], facts["type"]) == (1000, 2000, 1, "uint16")
    assert 1000 < facts["low"] < facts["high"] < 2000


def test_a_large_picture_is_reduced(tmp_path, monkeypatch):
    monkeypatch.setattr("medsoft.viewer.pixels.MOST_PIXELS", 600)
    Image.fromarray(np.arange(40 * 50, dtype=np.uint16).reshape(40, 50)).save(tmp_path / "a.png")
    answer = client_of(tmp_path).get("/api/cases/0/pixels")
    facts = json.loads(answer.headers["X-Picture"])
    assert (facts["width"], facts["height"], facts["reduced"], facts["full"]) == (25, 20, 2, [50, 40])
    assert len(answer.content) == 25 * 20 * 2


def test_a_damaged_picture_says_what_is_wrong(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    answer = client_of(tmp_path).get("/api/cases/0/pixels")
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_a_volume_is_sent_as_nifti_with_its_map(client, files):
    number = number_of(client, "v")
    read = nibabel.Nifti1Image.from_bytes(client.get(f"/api/cases/{number}/volume.nii").content)
    file = nibabel.load(files["volume"].parent / "data" / "v.nii.gz")
    np.testing.assert_array_equal(read.get_fdata(), file.get_fdata())
    np.testing.assert_allclose(read.affine, file.affine)
    assert read.get_data_dtype() == np.int16
    assert client.get(f"/api/cases/{number}").json()["map"] == 0.5
    sent = client.get(f"/api/cases/{number}/map.nii.gz").content
    assert sent == (files["volume"] / "maps" / "test_v.nii.gz").read_bytes()


def test_the_runs_picture_of_contributions_is_given(client):
    assert client.get("/api/cases/0").json()["contributions"]
    assert Image.open(io.BytesIO(client.get("/api/cases/0/contributions").content)).size == (32, 24)


# ---- reviews


def test_reviews_are_kept_beside_the_run(tmp_path):
    run = write_run(tmp_path)
    client = client_of(run)
    given = {"verdict": "disagree", "note": 'two lesions,\n"seen" twice'}
    answer = client.put("/api/cases/1/review", json=given).json()
    assert (answer["verdict"], answer["note"]) == ("disagree", 'two lesions, "seen" twice')
    client.put("/api/cases/0/review", json={"verdict": "agree", "note": ""})
    again = client_of(run).get("/api/cases").json()["cases"]
    assert [(case["verdict"], case["note"]) for case in again[:2]] == [("agree", ""), ("disagree", answer["note"])]
    table = pd.read_csv(run / "reviews.csv", dtype=str, keep_default_na=False)
    assert table.columns.tolist() == ["id", "split", "fold", "says", "verdict", "note", "time"]
    assert table[["id", "split", "says", "verdict"]].values.tolist() == [
        ["im1", "test", "healthy", "disagree"], ["im0", "test", "ill", "agree"],
    ]  # fmt: skip
    for number in (0, 1):
        client.put(f"/api/cases/{number}/review", json={"verdict": "", "note": ""})
    assert read_reviews(run / "reviews.csv") == {}
    assert client_of(run).get("/api/cases").json()["cases"][0]["verdict"] == ""


def test_reviews_of_two_viewers_do_not_undo_each_other(tmp_path):
    run = write_run(tmp_path)
    one, other = client_of(run), client_of(run)
    one.put("/api/cases/0/review", json={"verdict": "agree", "note": ""})
    other.put("/api/cases/1/review", json={"verdict": "unsure", "note": ""})
    assert len(read_reviews(run / "reviews.csv")) == 2


@pytest.mark.parametrize(
    "given", [{"verdict": "yes", "note": ""}, {"verdict": "agree"}, {"verdict": 1, "note": ""}, [], "x"]
)
def test_a_wrong_review_is_refused_and_nothing_is_written(tmp_path, given):
    run = write_run(tmp_path)
    assert client_of(run).put("/api/cases/0/review", json=given).status_code == 400
    assert not (run / "reviews.csv").exists()


def test_an_endless_review_is_refused(client):
    assert client.put("/api/cases/0/review", json={"verdict": "", "note": "x" * 100_000}).status_code == 413
    assert client.put("/api/cases/0/review", json={"verdict": "", "note": "x" * 5000}).status_code == 400


def test_a_file_of_reviews_that_is_none_is_not_overwritten(tmp_path):
    run = write_run(tmp_path)
    (run / "reviews.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="move it away"):
        client_of(run)
    assert (run / "reviews.csv").read_text() == "a,b\n1,2\n"


# ---- the server and the verb


def test_the_server_says_its_address_and_is_for_this_machine_alone(files, capsys):
    bound = listen(None)
    server = make_server(make_app(find_cases([str(files["run"])]), TOKEN), bound, TOKEN, open_browser=False)
    thread = threading.Thread(target=serve, args=(server, bound))
    thread.start()
    try:
        wait_until(lambda: server.started)
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=f"--port {port}"):
            listen(port)
    finally:
        server.should_exit = True
        thread.join()
    assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?token={TOKEN}\n", capsys.readouterr().out)


def test_the_verb_serves_until_it_is_stopped(files, medsoft, monkeypatch):
    calls = []

    def stop(server, bound):
        calls.append((server.address, server.open_browser, bound.getsockname()))
        bound.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("medsoft.viewer.serve.serve", stop)
    code, out, err = medsoft("view", files["run"], files["slides"], "--open=false", "--patients", "true")
    assert (code, err) == (0, "")
    assert "7 cases (1 slide, 4 pictures)" in out
    address, opens, (host, port) = calls[0]
    assert re.fullmatch(rf"http://127\.0\.0\.1:{port}/\?token=[\w-]{{32}}", address)
    assert (opens, host) == (False, "127.0.0.1")


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra_one_message_says_what_to_install(medsoft, files, monkeypatch, package):
    real = builtins.__import__

    def missing(name, *rest, **named):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest, **named)

    for name in [name for name in sys.modules if name.startswith(("medsoft.viewer.app", "medsoft.viewer.serve"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", missing)
    code, _, err = medsoft("view", files["run"])
    said = f"medsoft view: {package} is not installed: pip install 'medsoft[view]'"
    assert (code, err) == (2, f"medsoft: error: {said}\n")
