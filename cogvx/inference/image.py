"""A picture file as a first frame: upright, opaque, resized and cut as training cuts its clips."""

import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from cogvx.data.decode import fit_frame
from cogvx.errors import ConfigError, DataError
from cogvx.shapes import VideoSize, cover_and_crop

# Of picture formats these are common, and read by code that starts no other program.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")
_MOST_PIXELS = 64_000_000  # 0.8 GB while it is resized
_UNDER = (255, 255, 255, 255)  # what shows through, as on a page
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, KeyError, IndexError)


def load_image(path: Path, size: VideoSize) -> np.ndarray:
    """Read a picture as the first frame of a video of this size.

    It is turned as its EXIF says, laid on white where one can see through it, resized to cover the
    frame and cut in the middle: with the resampling and the rounding of the cut that clips have in
    training. A smaller picture is enlarged.

    Returns:
        uint8 RGB, `(h, w, 3)`, of the size's height and width.

    Raises:
        ConfigError: There is no such file.
        DataError: It is no picture, an animation, damaged, or too large to be resized.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such picture")
    rgb_hwc = _read(path)
    height, width, _ = rgb_hwc.shape
    cut = cover_and_crop(height, width, size)
    if cut.height * cut.width > _MOST_PIXELS:
        raise DataError(
            f"{path} is {height}x{width} (height x width), which is too long and narrow for a video"
            f" of {size}; cut it first"
        )
    fitted_chw = fit_frame(rgb_hwc, cut, size)
    fitted_hwc: np.ndarray = (
        fitted_chw.round().clamp(0, 255).permute(1, 2, 0).to(torch.uint8).contiguous().numpy()
    )
    return fitted_hwc


def _read(path: Path) -> np.ndarray:
    """Pixels as a person sees them, uint8 RGB `hwc`."""
    try:
        with warnings.catch_warnings():
            # Pillow warns of a large picture before its size can be asked for
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", module="PIL")  # of damage that it can do without
            with Image.open(path, formats=_FORMATS) as image:
                _require_usable(path, image)
                return np.array(_opaque(_in_8_bits(path, ImageOps.exif_transpose(image))))
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        known = ", ".join(_FORMATS)
        raise DataError(f"{path} is no picture that can be read; use one of {known}") from error
    except _DAMAGE as error:
        raise DataError(f"{path} is damaged or no picture: {error}") from error


def _require_usable(path: Path, image: Any) -> None:
    """Refuse by what the header says, before anything is decoded."""
    if image.width * image.height > _MOST_PIXELS:
        raise _too_large(path)
    # a phone's photo may have a preview or depth behind it, and is then called MPO
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"{path} holds several pictures; save the one to start from on its own")


def _in_8_bits(path: Path, image: Any) -> Any:
    """Grey of 16 bits brought to 8; Pillow itself would cut it off at 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    grey_hw = np.asarray(image)
    if grey_hw.dtype.kind not in "iu" or grey_hw.min() < 0 or grey_hw.max() > 0xFFFF:
        raise DataError(f"{path} has pixels of more than 16 bits; save it as an ordinary picture")
    return Image.fromarray(np.rint(grey_hw / 257).astype(np.uint8))


def _opaque(image: Any) -> Any:
    if not image.has_transparency_data:
        return image.convert("RGB")
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, _UNDER), over).convert("RGB")


def _too_large(path: Path) -> DataError:
    return DataError(
        f"{path} has more than {_MOST_PIXELS // 1_000_000} million pixels; make it smaller first"
    )
