"""Slides that tests write: pyramids in every layout, and a large one of stained tissue."""

import functools

import numpy as np
import tifffile

#: Micrometres from one pixel of level 0 to the next, in what :func:`pyramid` writes.
MPP = 0.5


@functools.cache
def tissue():
    """scikit-image's stained tissue, (512, 512, 3) uint8; read-only."""
    from skimage import data

    image = data.immunohistochemistry()
    image.setflags(write=False)
    return image


def picture(height=700, width=900):
    """Tissue repeated over (height, width, 3), each time another way round, so that no two places look alike."""
    turned = [np.rot90(tissue(), n) for n in range(4)]
    rows = -(-height // 512)
    columns = -(-width // 512)
    whole = np.block([[[turned[(row + 2 * column) % 4]] for column in range(columns)] for row in range(rows)])
    whole = whole[:height, :width].copy()
    whole[..., 0] ^= (np.arange(width) % 7).astype(np.uint8)
    whole[..., 1] ^= (np.arange(height) % 5).astype(np.uint8)[:, None]
    return whole


def reduced(pixels, step):
    """The mean of `step` x `step` pixels, as scanners reduce; what is left over goes."""
    height, width = (side // step * step for side in pixels.shape[:2])
    parts = pixels[:height, :width].reshape(height // step, step, width // step, step, *pixels.shape[2:])
    return np.rint(parts.mean(axis=(1, 3))).astype(pixels.dtype)


def levels(pixels, steps=(1, 2, 4)):
    """The levels of a pyramid."""
    return [pixels if step == 1 else reduced(pixels, step) for step in steps]


def pyramid(path, levels, *, where="pages", flag=True, mpp=MPP, description=None, writer=None, **options):
    """Write a pyramid.

    Parameters
    ----------
    path : Path
    levels : list of arrays
    where : "pages" or "subifds"
        Levels in successive pages, or within the first.
    flag : bool
        Mark the smaller levels as such (NewSubfileType).
    mpp : float or None
    description : str, optional
        Of the first page.
    writer : dict, optional
        What tifffile's writer takes: bigtiff, byteorder, ome.
    **options
        What its ``write`` takes: tile, compression, photometric, planarconfig, ...
    """
    writer = dict(writer or {})
    options = {"photometric": "rgb", "tile": (128, 128), "metadata": None, **options}
    first = {"description": description}
    if writer.get("ome"):
        first = {}
        options["metadata"] = {"axes": "YXS", **options["metadata"]} if options["metadata"] else {"axes": "YXS"}
    elif mpp is not None:
        options["resolution"], options["resolutionunit"] = (1e4 / mpp, 1e4 / mpp), "CENTIMETER"
    within = len(levels) - 1 if where == "subifds" else 0
    with tifffile.TiffWriter(path, **writer) as file:
        for n, level in enumerate(levels):
            if options.get("planarconfig") == "separate":
                level = np.moveaxis(level, -1, 0)
            reduced = {"subfiletype": int(flag)} if n else {"subifds": within, **first}
            if n and writer.get("ome"):
                options["metadata"] = None
            file.write(level, **reduced, **options)
    return path


def aperio(path, pixels, steps=(1, 4), *, compression="jpeg", **options):
    """Write a file as Aperio's scanners do: a thumbnail in strips after level 0, a label and an overview at the end."""
    size = f"{pixels.shape[1]}x{pixels.shape[0]} [0,0] (256x256)"
    text = f"Aperio Image Library v11.2.1 \r\n{size}|AppMag = 20|MPP = 0.4990"
    whole, *others = levels(pixels, steps)
    common = {"photometric": "rgb", "metadata": None, "compression": compression, **options}
    strips = {**common, "compression": "jpeg" if compression == "jpeg" else None, "rowsperstrip": 16}
    tiled = {**common, "tile": (256, 256)}
    with tifffile.TiffWriter(path) as file:
        file.write(whole, description=text, **tiled)
        file.write(reduced(pixels, 5), description=text, **strips)
        for level in others:
            file.write(level, description=text, **tiled)
        file.write(np.zeros((64, 48, 3), np.uint8), description="Aperio\r\nlabel 48x64", subfiletype=1, **strips)
        file.write(np.zeros((48, 96, 3), np.uint8), description="Aperio\r\nmacro 96x48", subfiletype=9, **strips)
    return path


def big_slide(path, side=40_000, *, steps=(1, 4, 16), quality=80, mpp=MPP):
    """Write a slide of `side` x `side` pixels in seconds: an island of stained tissue on white ground, JPEG tiles.

    Each level's tiles are encoded once and repeated. The island begins at a quarter of the side and ends at three
    quarters, rounded to whole tiles of the coarsest level: 8,192 to 32,768 of 40,000 pixels.
    """
    from imagecodecs import jpeg8_encode

    block = tissue()
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for step in steps:
            stained = block if step == 1 else reduced(block, step)
            stained = np.tile(stained, (256 // min(stained.shape[0], 256), 256 // min(stained.shape[1], 256), 1))
            beside = stained.shape[0] // 256
            encoded = {
                (row, column): jpeg8_encode(stained[row * 256 :, column * 256 :][:256, :256], level=quality)
                for row in range(beside)
                for column in range(beside)
            }
            blank = jpeg8_encode(np.full((256, 256, 3), 255, np.uint8), level=quality)
            extent = side // step
            tiles = -(-extent // 256)
            # Of tiles of the coarsest level, so that it is the same in all.
            units = -(-side // (256 * steps[-1]))
            unit = steps[-1] // step
            island = range(units // 4 * unit, (units - units // 4) * unit)

            def parts(tiles=tiles, island=island, encoded=encoded, blank=blank, beside=beside):
                for row in range(tiles):
                    for column in range(tiles):
                        stained = row in island and column in island
                        yield encoded[row % beside, column % beside] if stained else blank

            file.write(
                parts(),
                shape=(extent, extent, 3),
                dtype=np.uint8,
                tile=(256, 256),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=int(step > 1),
                resolution=(1e4 / mpp / step, 1e4 / mpp / step),
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    return path


def dicom(folder, pixels, *, mpp=MPP, side=128):
    """Write a slide as DICOM, one file for each of two levels, tiles as JPEG in RGB; the first file is returned."""
    import pydicom
    from imagecodecs import jpeg8_encode
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

    folder.mkdir()
    common = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for number, (step, level) in enumerate(zip((1, 4), levels(pixels, (1, 4))), 1):
        height, width = level.shape[:2]
        wide = np.pad(level, ((0, -height % side), (0, -width % side), (0, 0)), constant_values=255)
        tiles = [
            jpeg8_encode(wide[y : y + side, x : x + side].copy(), level=95, outcolorspace="ycbcr", subsampling=(1, 1))
            for y in range(0, height, side)
            for x in range(0, width, side)
        ]
        found = Dataset()
        found.file_meta = FileMetaDataset()
        found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
        found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for name, value in common.items():
            setattr(found, name, value)
        found.Modality = "SM"
        found.InstanceNumber = number
        found.ImageType = [
            "ORIGINAL" if step == 1 else "DERIVED",
            "PRIMARY",
            "VOLUME",
            "NONE" if step == 1 else "RESAMPLED",
        ]
        found.DimensionOrganizationType = "TILED_FULL"
        found.TotalPixelMatrixColumns, found.TotalPixelMatrixRows = width, height
        found.TotalPixelMatrixFocalPlanes = 1
        found.Rows = found.Columns = side
        found.NumberOfFrames = len(tiles)
        found.SamplesPerPixel, found.PhotometricInterpretation, found.PlanarConfiguration = 3, "YBR_FULL_422", 0
        found.BitsAllocated = found.BitsStored = 8
        found.HighBit, found.PixelRepresentation = 7, 0
        found.LossyImageCompression = "01"
        measures, groups, objective = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing = [mpp * step / 1000] * 2
        groups.PixelMeasuresSequence = [measures]
        found.SharedFunctionalGroupsSequence = [groups]
        objective.ObjectiveLensPower = 20
        optical = Dataset()
        optical.OpticalPathIdentifier = "1"
        optical.ObjectiveLensPower = 20
        found.OpticalPathSequence = [optical]
        found.PixelData = encapsulate(tiles)
        found["PixelData"].is_undefined_length = True
        pydicom.dcmwrite(folder / f"{number}.dcm", found, enforce_file_format=True)
    return folder / "1.dcm"
