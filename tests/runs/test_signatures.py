"""Only this user's own signature counts, and the key stays with the user."""

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from plcourse.errors import UserError
from plcourse.runs.signatures import KEY_BYTES, is_signed, is_trusted, key_path, sign, trusting

CONTENT = {"export": "torch_export", "sha256": "00" * 32}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_key_is_private_and_made_only_to_sign() -> None:
    assert not is_signed(CONTENT, "00")
    assert not key_path().parent.exists()
    signature = sign(CONTENT)
    assert stat.S_IMODE(key_path().stat().st_mode) == 0o600
    assert stat.S_IMODE(key_path().parent.stat().st_mode) == 0o700
    assert key_path().stat().st_size == KEY_BYTES
    assert sign(CONTENT) == signature
    assert len(signature) == 64


def test_another_content_signature_or_user_does_not_count(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = sign(CONTENT)
    assert is_signed(dict(reversed(CONTENT.items())), signature), "the order of the keys does not matter"
    assert not is_signed({**CONTENT, "sha256": "01" * 32}, signature)
    for other in (None, "", signature[:-1], signature.upper(), 7, ["x"], "ü\udcff"):
        assert not is_signed(CONTENT, other)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent / "other"))
    sign(CONTENT)
    assert not is_signed(CONTENT, signature)


def test_processes_that_make_the_key_at_once_get_the_same() -> None:
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(lambda _: sign(CONTENT), range(64)))) == 1


@pytest.mark.parametrize(("content", "mode", "problem"), [
    (b"", 0o600, "0 bytes instead of 32"),  # a kill between the creation and the write; anyone could sign with it
    (b"x" * 31, 0o600, "31 bytes"),
    (b"x" * 33, 0o600, "33 bytes"),
    (b"x" * 32, 0o644, "mode 0644, so that others may have read it"),
    (b"x" * 32, 0o660, "mode 0660"),
])  # fmt: skip
def test_an_unusable_key_neither_signs_nor_verifies(content: bytes, mode: int, problem: str) -> None:
    signature = sign(CONTENT)
    key_path().write_bytes(content)
    key_path().chmod(mode)
    with pytest.raises(UserError, match=f"no key to sign with.*{problem}"):
        sign(CONTENT)
    assert not is_signed(CONTENT, signature)


def test_without_a_usable_home_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"no key to sign with: cannot use '.*Not a directory"):
        sign(CONTENT)
    assert not is_signed(CONTENT, "00" * 32)
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")  # which the specification ignores
    monkeypatch.setenv("HOME", str(tmp_path))
    assert key_path() == tmp_path / ".config" / "plcourse" / "key"


def test_trust_covers_a_file_or_a_folder_and_ends_with_the_block(tmp_path: Path) -> None:
    folder, file = tmp_path / "export", tmp_path / "export" / "model.pt2"
    folder.mkdir()
    file.touch()
    (tmp_path / "link").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path)
    for named in (file, folder, tmp_path / "link"):
        with trusting([named]):
            assert is_trusted(file)
            assert not is_trusted(tmp_path / "other.pt2")
            assert not is_trusted(folder / "out" / "other.pt2"), "a link out of the folder"
        assert not is_trusted(file)
    with trusting([tmp_path / "export" / "mod"]):
        assert not is_trusted(file), "the beginning of a name"
