//! A page out of the image in a record; `RestoreBlockImage` of `xlogreader.c`.

use pgtypes::Major;

use crate::block::Image;
use crate::pglz;

/// `BLCKSZ`; servers with another size cannot be read.
pub(crate) const BLOCK: usize = 8192;

/// How an image is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    None,
    Pglz,
    Lz4,
    Zstd,
}

/// `bimg_info`: 0x02 is pglz up to 14; from 15 on 0x04, 0x08, 0x10 are pglz, lz4, zstd.
fn method(major: Major, info: u8) -> Option<Method> {
    if major < Major::V15 {
        return Some(if info & 0x02 == 0 { Method::None } else { Method::Pglz });
    }
    match info & !0x03 {
        0 => Some(Method::None),
        0x04 => Some(Method::Pglz),
        0x08 => Some(Method::Lz4),
        0x10 => Some(Method::Zstd),
        _ => None,
    }
}

/// Rebuilds the page from `stored`, the bytes of the image in the record.
///
/// # Errors
///
/// What is wrong, when it is no page.
pub(crate) fn restore(
    major: Major,
    image: Image,
    stored: &[u8],
) -> Result<Box<[u8]>, &'static str> {
    let method = method(major, image.info).ok_or("compressed in an unknown way")?;
    let hole_bytes = match image.hole_bytes {
        Some(bytes) => usize::from(bytes),
        None if image.info & Image::HAS_HOLE != 0 => {
            BLOCK.checked_sub(stored.len()).ok_or("longer than a page")?
        }
        None => 0,
    };
    let hole_offset = usize::from(image.hole_offset);
    if hole_offset + hole_bytes > BLOCK {
        return Err("the hole ends behind the page");
    }
    let plain_bytes = BLOCK - hole_bytes;
    let mut plain = vec![0; plain_bytes];
    match method {
        Method::None if stored.len() == plain_bytes => plain.copy_from_slice(stored),
        Method::None => return Err("its length is not that of a page without its hole"),
        Method::Pglz => pglz::decompress(stored, &mut plain).ok_or("pglz data is corrupt")?,
        Method::Lz4 => match lz4_flex::block::decompress_into(stored, &mut plain) {
            Ok(bytes) if bytes == plain_bytes => {}
            _ => return Err("lz4 data is corrupt"),
        },
        Method::Zstd => {
            match ruzstd::decoding::FrameDecoder::new().decode_all(stored, &mut plain) {
                Ok(bytes) if bytes == plain_bytes => {}
                _ => return Err("zstd data is corrupt"),
            }
        }
    }
    let (head, tail) = plain.split_at_checked(hole_offset).ok_or("the hole starts in a hole")?;
    let mut page = Vec::with_capacity(BLOCK);
    page.extend_from_slice(head);
    page.resize(hole_offset + hole_bytes, 0);
    page.extend_from_slice(tail);
    Ok(page.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(info: u8, hole_offset: u16, hole_bytes: Option<u16>) -> Image {
        Image { bytes: 0, hole_offset, hole_bytes, info }
    }

    #[test]
    fn the_hole_is_filled_with_zeros() {
        let page = restore(Major::V18, image(0x01, 2, None), &[7; 8000]).unwrap();
        assert_eq!(page.len(), BLOCK);
        assert_eq!(page[..2], [7; 2]);
        assert_eq!(page[2..194], [0; 192]);
        assert_eq!(page[194..], [7; 7998]);
    }

    #[test]
    fn lz4_and_pglz_carry_the_same_page() {
        let plain = [9_u8; 8000];
        let lz4 = lz4_flex::block::compress(&plain);
        let hole = image(0x09, 100, Some(192));
        let by_lz4 = restore(Major::V16, hole, &lz4).unwrap();
        // one literal, then matches of at most 273 bytes from one byte back
        let mut pglz = vec![];
        let mut left = plain.len() - 1;
        let mut tags = vec![vec![9]];
        while left > 0 {
            let len = left.clamp(3, 273);
            left -= len.min(left);
            tags.push(if len < 18 {
                vec![u8::try_from(len - 3).unwrap(), 1]
            } else {
                vec![0x0F, 1, u8::try_from(len - 18).unwrap()]
            });
        }
        for (number, group) in tags.chunks(8).enumerate() {
            pglz.push(if number == 0 { 0xFE } else { 0xFF });
            pglz.extend(group.iter().flatten());
        }
        assert_eq!(restore(Major::V14, image(0x03, 100, Some(192)), &pglz), Ok(by_lz4.clone()));
        assert_eq!(restore(Major::V15, image(0x05, 100, Some(192)), &pglz), Ok(by_lz4));
    }

    #[test]
    fn nonsense_is_an_error() {
        for (info, hole_bytes) in [(0x05, 100), (0x09, 100), (0x11, 100), (0x0D, 0), (0x01, 9000)] {
            for stored in [&[][..], &[0xFF; 40], &[0; 9000], &[0; 8000]] {
                let image = image(info, 8000, Some(hole_bytes));
                assert!(restore(Major::V17, image, stored).is_err(), "{info:02X}");
            }
        }
        assert!(restore(Major::V17, image(0x00, 0, None), &[0; 8191]).is_err());
        assert!(restore(Major::V17, image(0x01, 8192, None), &[0; 8191]).is_err());
    }
}
