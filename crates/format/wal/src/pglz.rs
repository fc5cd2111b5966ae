//! PostgreSQL's own compression; `pglz_decompress` of `common/pg_lzcompress.c`.

/// Fills `out` from `input`; `None` when the input is corrupt or its length does not fit.
pub(crate) fn decompress(input: &[u8], out: &mut [u8]) -> Option<()> {
    let mut input = input.iter().copied();
    let mut at = 0;
    while at < out.len() {
        let control = input.next()?;
        for bit in 0..8 {
            if at >= out.len() {
                break;
            }
            if control >> bit & 1 == 0 {
                *out.get_mut(at)? = input.next()?;
                at += 1;
                continue;
            }
            let (low, high) = (input.next()?, input.next()?);
            let mut len = usize::from(low & 0x0F) + 3;
            let back = usize::from(low & 0xF0) << 4 | usize::from(high);
            if len == 18 {
                len += usize::from(input.next()?);
            }
            let from = at.checked_sub(back).filter(|_| back != 0)?;
            // The C code cuts a match that runs over the end; it checks afterwards, as we do.
            for source in (from..from + len).take(out.len() - at) {
                *out.get_mut(at)? = *out.get(source)?;
                at += 1;
            }
        }
    }
    input.next().is_none().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_matches_that_overlap() {
        // "abc", then 9 bytes from 3 back
        let input = [0b1000, b'a', b'b', b'c', 0x06, 0x03];
        let mut out = [0; 12];
        assert_eq!(decompress(&input, &mut out), Some(()));
        assert_eq!(&out, b"abcabcabcabc");
    }

    #[test]
    fn a_long_match() {
        let input = [0b10, b'z', 0x0F, 0x01, 0xFF];
        let mut out = [0; 274];
        assert_eq!(decompress(&input, &mut out), Some(()));
        assert_eq!(out, [b'z'; 274]);
    }

    #[test]
    fn corruption_is_noticed() {
        let mut out = [0; 12];
        assert_eq!(decompress(&[0b1, 0x00, 0x01], &mut out), None, "nothing is one byte back");
        assert_eq!(decompress(&[0b10, b'a', 0x00, 0x00], &mut out), None, "offset zero");
        assert_eq!(decompress(&[0b1000, b'a', b'b', b'c', 0x06], &mut out), None, "cut");
        let long = [0b1000, b'a', b'b', b'c', 0x06, 0x03, 0];
        assert_eq!(decompress(&long, &mut out), None, "bytes are left");
    }
}
