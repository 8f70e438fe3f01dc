"""Downloads from a server on this machine that misbehaves as it is told."""

import concurrent.futures
import hashlib
import json

import numpy as np
import pytest
from conftest import one_backend

from keras_danet.weights import downloads

pytestmark = one_backend

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def site(download_site):
    download_site.files["/weights.pth"] = CONTENT
    return download_site


def url(site):
    return f"{site.address}/weights.pth"


def ranges(site):
    return [asked for _, asked in site.asked]


def names(folder):
    """What lies there, but for locks."""
    return sorted(
        path.name for path in folder.iterdir() if path.suffix != ".lock"
    )


def test_a_file_is_fetched_once(site, tmp_path, capsys):
    path = tmp_path / "folder" / "weights.pth"
    for digits in (DIGEST[:8], DIGEST):
        assert downloads.fetch(url(site), path, digits) == path
        assert path.read_bytes() == CONTENT
    assert ranges(site) == [None]
    assert names(path.parent) == ["weights.pth", "weights.pth.sha256"]
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("weights.pth: ") and "of 3.0 MB" in shown[0]
    assert shown[-1] == "weights.pth: 3.0 of 3.0 MB"


def test_a_cut_connection_is_taken_up(site, tmp_path):
    site.cuts = [1_000_000, 500_000]
    path = downloads.fetch(url(site), tmp_path / "w.pth", DIGEST[:8])
    assert path.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=1000000-", "bytes=1500000-"]
    assert names(tmp_path) == ["w.pth", "w.pth.sha256"]


def test_a_reset_connection_is_taken_up(site, tmp_path, capsys):
    site.cuts, site.resets = [700_000, 700_000, 700_000], True
    path = downloads.fetch(url(site), tmp_path / "w.pth", DIGEST[:8])
    assert path.read_bytes() == CONTENT
    assert ranges(site) == [
        None,
        "bytes=700000-",
        "bytes=1400000-",
        "bytes=2100000-",
    ]
    # It is shown as it comes.
    shown = capsys.readouterr().err.splitlines()
    assert float(shown[0].split()[1]) < 0.7


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-5", "1e3", "٣"])
def test_a_length_must_be_a_number(site, tmp_path, length):
    site.headers["Content-Length"] = length.encode().decode("latin1")
    with pytest.raises(ConnectionError, match="how long the file is") as error:
        downloads.fetch(url(site), tmp_path / "w.pth")
    assert url(site) in str(error.value)


@pytest.mark.parametrize(
    "target", ["http://[::bad/", "http://127.0.0.1:99999999/", "http://\xe9/"]
)
def test_a_redirect_to_no_address_loses_nothing(site, tmp_path, target):
    site.cuts = [700_000] + [0] * 10
    with pytest.raises(ConnectionError):
        downloads.fetch(url(site), tmp_path / "w.pth", DIGEST)
    site.status, site.headers["Location"] = 302, target
    with pytest.raises(ConnectionError) as error:
        downloads.fetch(url(site), tmp_path / "w.pth", DIGEST)
    for part in (url(site), "from 700000 bytes", str(tmp_path / "w.pth")):
        assert part in str(error.value)
    site.status, site.headers, site.cuts, site.asked = None, {}, [], []
    downloads.fetch(url(site), tmp_path / "w.pth", DIGEST)
    assert ranges(site) == ["bytes=700000-"]


def test_a_later_run_takes_up_what_an_earlier_left(site, tmp_path):
    site.cuts = [700_000] + [0] * 10
    with pytest.raises(ConnectionError) as error:
        downloads.fetch(url(site), tmp_path / "w.pth", DIGEST[:8])
    for part in (url(site), "from 700000 bytes", str(tmp_path / "w.pth")):
        assert part in str(error.value)
    assert "w.pth" not in names(tmp_path)
    site.cuts, site.asked = [], []
    downloads.fetch(url(site), tmp_path / "w.pth", DIGEST[:8])
    assert ranges(site) == ["bytes=700000-"]
    assert (tmp_path / "w.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("how", ["other file", "no ranges", "no validator"])
def test_what_cannot_be_taken_up_starts_again(site, tmp_path, how):
    site.etag = None if how == "no validator" else site.etag
    site.cuts = [700_000] + [0] * 10
    with pytest.raises(ConnectionError):
        downloads.fetch(url(site), tmp_path / "w.pth")
    site.cuts, site.asked = [], []
    content = CONTENT
    if how == "other file":
        content = site.files["/weights.pth"] = CONTENT[::-1]
        site.etag = '"second"'
    site.ranges = how != "no ranges"
    with pytest.warns(UserWarning, match="unverified"):
        downloads.fetch(url(site), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == content
    assert ranges(site) == [None if how == "no validator" else "bytes=700000-"]


def test_a_part_of_another_file_is_not_taken(download_site, site, tmp_path):
    site.cuts = [700_000] + [0] * 10
    with pytest.raises(ConnectionError):
        downloads.fetch(url(site), tmp_path / "w.pth")
    # The file changes, and the server sends its end unasked.
    site.cuts = []
    site.files["/weights.pth"] = CONTENT[::-1]
    site.etag, site.obeys_if_range = '"second"', False
    with pytest.warns(UserWarning, match="unverified"):
        downloads.fetch(url(site), tmp_path / "w.pth")
    assert (tmp_path / "w.pth").read_bytes() == CONTENT[::-1]


def test_a_finished_part_is_not_fetched_again(site, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT)
    (tmp_path / "w.pth.part.json").write_text(
        json.dumps({"validator": site.etag, "size": len(CONTENT)})
    )
    downloads.fetch(url(site), tmp_path / "w.pth", DIGEST)
    assert ranges(site) == []
    assert names(tmp_path) == ["w.pth", "w.pth.sha256"]


def test_a_part_that_is_too_long_starts_again(site, tmp_path):
    (tmp_path / "w.pth.part").write_bytes(CONTENT + b"more")
    (tmp_path / "w.pth.part.json").write_text(
        json.dumps({"validator": site.etag, "size": None})
    )
    downloads.fetch(url(site), tmp_path / "w.pth", DIGEST)
    assert ranges(site) == [f"bytes={len(CONTENT) + 4}-", None]


def test_a_wrong_digest_leaves_nothing(site, tmp_path):
    wrong = "0" * 8
    with pytest.raises(ValueError, match=f"{wrong}.*received {DIGEST}"):
        downloads.fetch(url(site), tmp_path / "w.pth", wrong)
    assert names(tmp_path) == []


def test_an_unknown_digest_is_recorded_and_enforced(site, tmp_path):
    path = tmp_path / "w.pth"
    with pytest.warns(UserWarning, match=f"unverified.*{DIGEST}"):
        downloads.fetch(url(site), path)
    assert (tmp_path / "w.pth.sha256").read_text() == DIGEST + "\n"
    downloads.fetch(url(site), path)
    # Neither a change in the cache nor one at the publisher goes unseen.
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(ValueError, match="recorded at the first download"):
        downloads.fetch(url(site), path)
    path.unlink()
    site.files["/weights.pth"] = CONTENT + b"!"
    with pytest.raises(ValueError, match="recorded at the first download"):
        downloads.fetch(url(site), path)
    assert names(tmp_path) == ["w.pth.sha256"]


@pytest.mark.parametrize(
    "status, kind",
    [
        (404, FileNotFoundError),
        (403, PermissionError),
        (500, ConnectionError),
    ],
)
def test_refusals_of_the_server(site, tmp_path, status, kind):
    site.status = status
    with pytest.raises(kind, match=f"HTTP {status}") as error:
        downloads.fetch(url(site), tmp_path / "w.pth")
    assert url(site) in str(error.value)
    assert f"copy it to {tmp_path / 'w.pth'}" in str(error.value)
    assert ranges(site) == [None]
    assert names(tmp_path) == []


def test_without_a_network(site, tmp_path):
    site.server_close()
    with pytest.raises(ConnectionError) as error:
        downloads.fetch(url(site), tmp_path / "w.pth")
    assert f"Could not fetch {url(site)}: " in str(error.value)
    assert f"copy it to {tmp_path / 'w.pth'}" in str(error.value)


def test_what_is_too_large_is_refused(site, tmp_path):
    with pytest.raises(ValueError, match="larger than the 1000000 bytes"):
        downloads.fetch(url(site), tmp_path / "w.pth", max_bytes=1_000_000)
    assert names(tmp_path) == []


def test_a_length_must_be_told(site, tmp_path):
    # Half of such a file would be taken for the whole.
    site.sends_length = False
    with pytest.raises(ConnectionError, match="how long the file is"):
        downloads.fetch(url(site), tmp_path / "w.pth")
    assert names(tmp_path) == []


@pytest.mark.parametrize("digits", ["", "abc", "A" * 8, "0" * 65])
def test_digits_are_checked(tmp_path, digits):
    with pytest.raises(ValueError, match="`digits` must be"):
        downloads.fetch("http://127.0.0.1:9/w", tmp_path / "w.pth", digits)


def test_a_record_is_no_record_if_it_is_empty(site, tmp_path):
    (tmp_path / "w.pth.sha256").write_text("")
    with pytest.raises(ValueError, match="holds no SHA-256"):
        downloads.fetch(url(site), tmp_path / "w.pth")


def test_other_schemes_are_refused(tmp_path):
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ValueError, match="http or https"):
        downloads.fetch(f"file://{tmp_path}/secret", tmp_path / "w.pth")


def test_no_redirect_leaves_encryption():
    request = downloads.urllib.request.Request("https://site/w.pth")
    handler = downloads._KeepHttps()
    with pytest.raises(OSError, match="not encrypted"):
        handler.redirect_request(request, None, 302, "", {}, "http://site/w")
    plain = downloads.urllib.request.Request("http://site/w.pth")
    with pytest.raises(OSError, match="not an http server"):
        handler.redirect_request(plain, None, 302, "", {}, "ftp://site/w")
    followed = handler.redirect_request(
        request, None, 302, "", {}, "https://cdn/w"
    )
    assert followed.full_url == "https://cdn/w"


def test_of_three_at_once_one_fetches(site, tmp_path):
    # The lock belongs to the open file: threads are as good as processes.
    path = tmp_path / "w.pth"
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        fetched = [
            pool.submit(downloads.fetch, url(site), path, DIGEST)
            for _ in range(3)
        ]
        assert [future.result() for future in fetched] == [path] * 3
    assert ranges(site) == [None]
    assert path.read_bytes() == CONTENT


def test_the_cache_is_keras_s(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / "keras_danet"
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert downloads.cache_folder() == tmp_path / ".keras" / "keras_danet"
