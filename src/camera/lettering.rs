//! Letters for pictures that framehub draws itself: a font of 5x8 dots, enlarged with smooth edges.

/// Width in dots from one letter to the next.
const ADVANCE: usize = 6;
/// Height of a line in dots: 7 above the base line, 1 below it.
pub(crate) const HEIGHT: usize = 8;
/// How much of its surroundings a pixel needs to be inked: less than half, so that diagonal dots touch.
const THRESHOLD: f32 = 0.4;

/// Printable ASCII from the space on. Each byte is a column of dots from left to right, its lowest bit at the top.
#[rustfmt::skip]
const FONT: [u64; 95] = [
    0x0000000000, 0x00005F0000, 0x0003000300, 0x147F147F14, 0x242A7F2A12, 0x2313086462,  //   ! " # $ %
    0x3649552250, 0x0000030000, 0x001C224100, 0x0041221C00, 0x14083E0814, 0x08083E0808,  // & ' ( ) * +
    0x0080600000, 0x0008080800, 0x0000600000, 0x2010080402, 0x3E4141413E, 0x00427F4000,  // , - . / 0 1
    0x4261514946, 0x2141454B31, 0x1814127F10, 0x2745454539, 0x3C4A494930, 0x0171090503,  // 2 3 4 5 6 7
    0x3649494936, 0x064949291E, 0x0000360000, 0x0080760000, 0x0814224100, 0x1414141414,  // 8 9 : ; < =
    0x0041221408, 0x0201510906, 0x3E415D554E, 0x7E0909097E, 0x7F49494936, 0x3E41414122,  // > ? @ A B C
    0x7F4141413E, 0x7F49494941, 0x7F09090901, 0x3E4149493A, 0x7F0808087F, 0x00417F4100,  // D E F G H I
    0x204040403F, 0x7F08142241, 0x7F40404040, 0x7F020C027F, 0x7F0204087F, 0x3E4141413E,  // J K L M N O
    0x7F09090906, 0x3E4151215E, 0x7F09192946, 0x4649494931, 0x01017F0101, 0x3F4040403F,  // P Q R S T U
    0x1F2040201F, 0x7F2018207F, 0x6314081463, 0x0304780403, 0x6151494543, 0x007F414100,  // V W X Y Z [
    0x0204081020, 0x0041417F00, 0x0402010204, 0x4040404040, 0x0001020000, 0x2054545478,  // \ ] ^ _ ` a
    0x7F44444438, 0x3844444428, 0x384444447F, 0x3854545418, 0x047E050500, 0x18A4A4A47C,  // b c d e f g
    0x7F04040478, 0x00447D4000, 0x4080847D00, 0x7F10284400, 0x00417F4000, 0x7C04780478,  // h i j k l m
    0x7C04040478, 0x3844444438, 0xFC24242418, 0x18242424FC, 0x7C08040408, 0x4854545424,  // n o p q r s
    0x043F444420, 0x3C4040407C, 0x1C2040201C, 0x3C4038403C, 0x4428102844, 0x1CA0A0A07C,  // t u v w x y
    0x4464544C44, 0x0008364100, 0x00007F0000, 0x0041360800, 0x0804081008,  // z { | } ~
];

/// Width of a text, in dots.
pub(crate) fn width(text: &str) -> usize {
    (ADVANCE * text.chars().count()).saturating_sub(1)
}

/// Draws a line of text into a plane of luma, its top left corner `at` a pixel, each dot `scale` pixels wide and high.
/// What does not fit into the plane is left out. Characters that the font lacks become question marks.
pub(crate) fn draw(plane: &mut [u8], stride: usize, [left, top]: [usize; 2], scale: f32, text: &str, luma: u8) {
    // One empty column at each end and one empty row above: every pixel lies between two columns and two rows.
    let columns: Vec<u16> = [0].into_iter().chain(text.chars().flat_map(columns)).collect();
    let between = |pixel: usize| {
        let dots = (pixel as f32 + 0.5) / scale + 0.5;
        (dots as usize, dots.fract())
    };
    let mix = |from: f32, to: f32, part: f32| from + (to - from) * part;
    let pixels: Vec<(usize, f32)> = (0..(width(text) as f32 * scale) as usize).map(between).collect();
    let rows = plane.chunks_exact_mut(stride).skip(top).take((HEIGHT as f32 * scale) as usize);
    for (y, row) in rows.enumerate() {
        let (above, down) = between(y);
        let dot = |column: &u16, row: usize| f32::from(column >> row & 1);
        let ink: Vec<f32> =
            columns.iter().map(|column| mix(dot(column, above), dot(column, above + 1), down)).collect();
        for (pixel, &(before, right)) in row.iter_mut().skip(left).zip(&pixels) {
            let ink = mix(ink[before], ink[before + 1], right);
            let cover = ((ink - THRESHOLD) * scale + 0.5).clamp(0.0, 1.0);
            *pixel = mix(f32::from(*pixel), luma.into(), cover) as u8;
        }
    }
}

/// A letter's columns of dots, and an empty one behind them.
fn columns(letter: char) -> impl Iterator<Item = u16> {
    let index = (letter as usize).wrapping_sub(usize::from(b' '));
    let dots = FONT.get(index).copied().unwrap_or(FONT[usize::from(b'?' - b' ')]);
    let [_, _, _, columns @ ..] = dots.to_be_bytes();
    columns.into_iter().chain([0]).map(|column| u16::from(column) << 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A text as lines of characters, `#` where it is inked.
    fn drawn(text: &str, scale: f32, size: [usize; 2]) -> Vec<String> {
        let mut plane = vec![0; size[0] * size[1]];
        draw(&mut plane, size[0], [0, 0], scale, text, 255);
        let character = |luma: &u8| if *luma > 127 { '#' } else { '.' };
        plane.chunks(size[0]).map(|row| row.iter().map(character).collect()).collect()
    }

    #[test]
    fn letters_are_as_designed() {
        let wanted = [
            ".###........",
            "#...#.......",
            "#...#..####.",
            "#####.#...#.",
            "#...#.#...#.",
            "#...#..####.",
            "#...#.....#.",
            ".......###..",
        ];
        assert_eq!(drawn("Ag", 1.0, [12, 8]), wanted);
        assert_eq!(drawn("\u{e4}\u{1f4f7}", 1.0, [12, 8]), drawn("??", 1.0, [12, 8]));
    }

    #[test]
    fn every_letter_but_o_and_zero_has_a_shape_of_its_own() {
        let mut shapes: Vec<_> = (' '..='~').map(|letter| drawn(&letter.to_string(), 1.0, [6, 8])).collect();
        assert_eq!(shapes.len(), FONT.len());
        assert!(shapes.iter().skip(1).all(|shape| shape.concat().contains('#')), "only the space is empty");
        shapes.sort();
        shapes.dedup();
        assert_eq!(shapes.len(), FONT.len() - 1);
    }

    #[test]
    fn diagonal_dots_touch_when_enlarged() {
        // The slash has a dot in each of its five rows.
        let large = drawn("/", 10.0, [50, 80]);
        let inked: Vec<_> = (0..80).filter(|y| large[*y].contains('#')).collect();
        assert_eq!(inked, (9..61).collect::<Vec<_>>(), "{large:#?}");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        for size in [[1, 1], [3, 2], [16, 16], [1000, 5]] {
            for (scale, at) in [(0.1, [0, 0]), (1.0, [2, 1]), (3.7, [15, 15]), (40.0, [999, 999])] {
                let mut plane = vec![7; size[0] * size[1]];
                draw(&mut plane, size[0], at, scale, "What is too long?", 200);
                assert!(plane.iter().all(|luma| (7..=200).contains(luma)));
            }
        }
        assert_eq!([width(""), width("1"), width("12")], [0, 5, 11]);
    }
}
