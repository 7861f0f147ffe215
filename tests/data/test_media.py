"""Every kind of broken or odd medium: read correctly, or refused with a reason before it costs anything."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from broken_media import encoded, gradient, grey_of, huge_png, with_duration, write_clip, write_sound
from PIL import Image, ImageFile, ImageOps

from latefuse.config_data import MediaLimits
from latefuse.data import media
from latefuse.data.errors import MediaError
from latefuse.data.media import check_image, check_video, frame_indices, open_image, read_frames, sniff


def reason(call: object, *args: object) -> str:
    with pytest.raises(MediaError) as caught:
        call(*args)  # type: ignore[operator]  # any of the four functions
    return caught.value.reason


def same(one: Image.Image, other: Image.Image, within: int = 0) -> bool:
    difference = np.abs(np.asarray(one, np.int16) - np.asarray(other, np.int16))
    return one.size == other.size and int(difference.max()) <= within


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_pictures_come_back_as_they_were(kind: str) -> None:
    assert same(open_image(encoded(gradient(), kind)), gradient())


def test_a_truncated_jpeg_is_refused_though_its_header_is_sound() -> None:
    whole = encoded(gradient(200, 200), "JPEG", quality=95)
    assert check_image(whole[: len(whole) // 2]).width == 200
    assert reason(open_image, whole[: len(whole) // 2]) == "truncated"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_other_cut_pictures_are_refused(kind: str) -> None:
    whole = encoded(gradient(200, 200), kind)
    assert reason(open_image, whole[: len(whole) // 2]) in ("truncated", "broken")


def test_zero_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert reason(check_image, tmp_path / "a.png") == reason(read_frames, tmp_path / "a.png", 4) == "empty"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert reason(check_image, tmp_path / "no.png") == reason(check_video, tmp_path) == "missing"


def test_a_wrong_extension_is_read_as_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.write_bytes(encoded(gradient(), "PNG"))
    assert check_image(path).extension == "png"
    assert same(open_image(path), gradient())
    clip = write_clip(tmp_path / "clip.mp4", [10, 200])
    assert check_video(clip.rename(tmp_path / "clip.avi")).extension == "mp4"


def test_a_clip_is_no_image_and_text_is_nothing(tmp_path: Path) -> None:
    assert reason(check_image, write_clip(tmp_path / "a.mp4", [1])) == "not-an-image"
    assert reason(check_image, b"just words") == reason(check_video, b"just words") == "unknown-format"


def test_a_playlist_can_not_make_the_decoder_open_other_files(tmp_path: Path) -> None:
    other = write_clip(tmp_path / "secret.mp4", [1, 2])
    playlist = tmp_path / "clip.mp4"
    playlist.write_text(f"#EXTM3U\n#EXTINF:1,\n{other}\n")
    assert reason(read_frames, playlist, 2) == "unknown-format"
    assert reason(check_image, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "unknown-format"


def test_cmyk_is_converted() -> None:
    ink = Image.merge("CMYK", [Image.new("L", (8, 8), level) for level in (0, 255, 255, 0)])
    assert open_image(encoded(ink, "TIFF")).getpixel((4, 4)) == (255, 0, 0)
    red, green, blue = open_image(encoded(ink, "JPEG", quality=95)).getpixel((4, 4))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_byte(kind: str) -> None:
    deep = (np.arange(256, dtype=np.uint16).reshape(16, 16) << 8) + 255
    shallow = np.asarray(open_image(encoded(Image.fromarray(deep), kind)))
    assert np.array_equal(shallow, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def test_float_pictures() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    read = np.asarray(open_image(encoded(Image.fromarray(values), "TIFF")))[..., 0]
    assert np.array_equal(read, (values * 255).round().astype(np.uint8))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_picture_upright(orientation: int) -> None:
    upright = gradient(40, 24)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert same(open_image(encoded(stored, "PNG", exif=exif)), upright)


def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    raw = encoded(gradient(), "JPEG", quality=95, exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 20)
    assert same(open_image(raw), open_image(encoded(gradient(), "JPEG", quality=95)))


def test_transparency_lies_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert open_image(encoded(clear, "PNG")).getpixel((1, 1)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 3 + [9, 8, 7])
    assert open_image(encoded(palette, "PNG")).getpixel((1, 1)) == (9, 8, 7)
    assert open_image(encoded(palette, "PNG", transparency=3)).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_the_picture_and_all_are_the_clip(kind: str) -> None:
    greys = [0, 60, 120, 180, 240]
    first, *rest = [Image.new("RGB", (16, 16), (grey, grey, grey)) for grey in greys]
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(first, kind, save_all=True, append_images=rest, duration=100, **options)
    assert grey_of(open_image(raw)) == 0
    assert check_video(raw).frames == 5
    assert [grey_of(frame) for frame in read_frames(raw, 5)] == pytest.approx(greys, abs=1)
    assert [grey_of(frame) for frame in read_frames(raw, 2)] == pytest.approx([60, 180], abs=1)


class Decoded(BaseException):
    """A decoder was asked for pixels."""


@pytest.fixture
def _no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*args: object, **options: object) -> None:
        raise Decoded

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    monkeypatch.setattr(media, "decode", decode)


@pytest.mark.usefixtures("_no_decoding")
def test_the_limits_are_checked_before_decoding(tmp_path: Path) -> None:
    assert reason(check_image, huge_png()) == "too-many-pixels"
    assert reason(open_image, huge_png(9_000, 9_000)) == "too-many-pixels"
    picture, clip = encoded(gradient(20, 20), "PNG"), write_clip(tmp_path / "a.mp4", [0, 100, 200])
    for limits in (MediaLimits(max_pixels=399), MediaLimits(max_bytes=len(picture) - 1)):
        assert reason(open_image, picture, limits).startswith("too-many-")
    for limits in (MediaLimits(max_pixels=64 * 48 - 1), MediaLimits(max_frames=2), MediaLimits(max_seconds=0.01)):
        assert reason(read_frames, clip, 2, limits).startswith("too-many-")
    for call in (lambda: open_image(picture), lambda: read_frames(clip, 2)):  # the decoders that were never reached
        with pytest.raises(Decoded):
            call()


def test_the_limits_are_the_recipes(tmp_path: Path) -> None:
    raw = encoded(gradient(20, 20), "PNG")
    assert check_image(raw, MediaLimits(max_pixels=400)).width == 20
    assert reason(check_image, raw, MediaLimits(max_pixels=399)) == "too-many-pixels"
    assert reason(check_image, raw, MediaLimits(max_bytes=len(raw) - 1)) == "too-many-bytes"
    clip = write_clip(tmp_path / "a.mp4", range(0, 200, 20))
    assert reason(check_video, clip, MediaLimits(max_frames=9)) == "too-many-frames"
    assert reason(check_video, clip, MediaLimits(max_seconds=0.5)) == "too-many-seconds"
    assert reason(check_video, clip, MediaLimits(max_pixels=64 * 48 - 1)) == "too-many-pixels"
    silent_about_frames = write_clip(tmp_path / "a.mkv", range(0, 200, 20))
    assert reason(read_frames, silent_about_frames, 2, MediaLimits(max_frames=9)) == "too-many-frames"


def test_frame_indices_are_the_centres_of_equal_intervals() -> None:
    for total in range(1, 30):
        for n in range(1, 20):
            assert frame_indices(total, n) == [int((i + 0.5) * total / n + 1e-9) for i in range(n)]


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "mpeg4"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")]
)
def test_frames_of_every_container_are_the_right_ones(tmp_path: Path, name: str, codec: str) -> None:
    greys = [20 * number for number in range(12)]
    clip = write_clip(tmp_path / name, greys, codec=codec)
    for n in (1, 4, 5, 12):
        wanted = [greys[index] for index in frame_indices(12, n)]
        assert [grey_of(frame) for frame in read_frames(clip, n)] == pytest.approx(wanted, abs=6)


def test_reading_is_deterministic(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", range(0, 240, 10))
    once, again = read_frames(clip, 8), read_frames(clip.read_bytes(), 8)
    assert all(same(one, other) for one, other in zip(once, again, strict=True))


def test_one_frame_is_repeated(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", [99])
    assert [grey_of(frame) for frame in read_frames(clip, 3)] == pytest.approx([99] * 3, abs=3)
    assert same(read_frames(encoded(gradient(), "PNG"), 2)[1], gradient())


def test_a_variable_frame_rate_is_counted_and_not_timed(tmp_path: Path) -> None:
    greys = [10, 50, 90, 130, 170, 210]
    clip = write_clip(tmp_path / "a.mp4", greys, at_ms=[0, 10, 20, 30, 4_000, 9_000])
    assert [grey_of(frame) for frame in read_frames(clip, 6)] == pytest.approx(greys, abs=4)
    assert [grey_of(frame) for frame in read_frames(clip, 3)] == pytest.approx([50, 130, 210], abs=4)


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4"])
def test_a_clip_without_frames(tmp_path: Path, name: str) -> None:
    clip = write_clip(tmp_path / name, [], codec="mpeg4")
    assert reason(read_frames, clip, 4) in ("no-frames", "no-video")


def test_sound_without_pictures(tmp_path: Path) -> None:
    assert reason(check_video, write_sound(tmp_path / "a.mp4")) == "no-video"


def test_an_absurd_duration_is_refused_by_the_header_alone(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mkv", [1, 2, 3], codec="mpeg4")
    assert check_video(clip).seconds < 1
    assert reason(check_video, with_duration(clip.read_bytes(), 3e9)) == "too-many-seconds"


def test_cut_clips(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), dtype=np.uint8)
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    whole = path.read_bytes()
    assert len(read_frames(whole, 4)) == 4
    assert reason(read_frames, whole[: len(whole) // 2], 4) == "truncated"
    index_last = write_clip(tmp_path / "slow.mp4", range(0, 200, 10)).read_bytes()
    assert reason(read_frames, index_last[:-200], 4) == "truncated"


def test_bytes_that_only_look_like_a_clip() -> None:
    assert sniff(b"\0\0\0\x20ftypisom") == "mp4"
    assert reason(read_frames, b"\x1aE\xdf\xa3" + bytes(200), 2) == "broken"
    assert reason(read_frames, b"\0\0\0\x10ftypisom" + bytes(100), 2) in ("truncated", "broken")


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    draw = np.random.default_rng(1)
    exif = ImageOps.exif_transpose(gradient(64, 64))
    sound = [encoded(exif, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")]
    sound += [write_clip(tmp_path / name, [5, 80, 160], codec="mpeg4").read_bytes() for name in ("a.mp4", "a.mkv")]
    for raw in sound:
        for _ in range(25):
            damaged = bytearray(raw)
            for place in draw.integers(0, len(raw), 12):
                damaged[place] = draw.integers(0, 256)
            for call in (lambda data: read_frames(data, 2), open_image):
                try:
                    result = call(io.BytesIO(damaged).getvalue())
                except MediaError:
                    continue
                assert result
