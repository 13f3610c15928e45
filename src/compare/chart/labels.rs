//! Where labels go so that none covers another, a mark, or the frame.

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Box {
    pub left: i32,
    pub top: i32,
    pub right: i32,
    pub bottom: i32,
}

impl Box {
    pub fn new(left: i32, top: i32, width: i32, height: i32) -> Self {
        Box { left, top, right: left + width, bottom: top + height }
    }

    /// Pixels that two have in common.
    fn overlap(&self, other: &Box) -> i64 {
        let side = |a: i32, b: i32, c: i32, d: i32| i64::from((b.min(d) - a.max(c)).max(0));
        side(self.left, self.right, other.left, other.right) * side(self.top, self.bottom, other.top, other.bottom)
    }

    /// Pixels of this one outside of another.
    fn outside(&self, frame: &Box) -> i64 {
        self.overlap(self) - self.overlap(frame)
    }
}

/// Places labels of the given sizes beside points: for each its upper left corner, and whether it lies so far away that a line
/// should lead to it. `marks`: the radius of marks; `lines`: whatever else is not to be covered, if there is a choice.
pub fn place(
    points: &[(i32, i32)],
    sizes: &[(i32, i32)],
    radius: i32,
    frame: Box,
    lines: &[Box],
) -> Vec<((i32, i32), bool)> {
    let marks: Vec<Box> =
        points.iter().map(|(x, y)| Box::new(x - radius, y - radius, 2 * radius, 2 * radius)).collect();
    let mut placed: Vec<Option<Box>> = vec![None; points.len()];
    let mut out = vec![((0, 0), false); points.len()];
    // Those with many neighbours choose first.
    let near = |i: usize| {
        let close = |p: &&(i32, i32)| (p.0 - points[i].0).abs() < 90 && (p.1 - points[i].1).abs() < 40;
        points.iter().filter(close).count()
    };
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(near(i)));
    for i in order {
        let cost = |b: &Box, rank: usize| -> i64 {
            let covered: i64 = marks.iter().chain(placed.iter().flatten()).map(|o| b.overlap(o)).sum();
            let lines: i64 = lines.iter().map(|o| b.overlap(o)).sum();
            (covered + b.outside(&frame)) * 1000 + lines * 3 + rank as i64 * 8
        };
        let choices = candidates(points[i], sizes[i], radius);
        let best = choices.iter().enumerate().min_by_key(|(rank, (b, _))| cost(b, *rank));
        if let Some((_, &(b, far))) = best {
            placed[i] = Some(b);
            out[i] = ((b.left, b.top), far);
        }
    }
    out
}

/// Places for a label, the most natural first; those of the outer rings are far.
fn candidates((x, y): (i32, i32), (width, height): (i32, i32), radius: i32) -> Vec<(Box, bool)> {
    let mut out = Vec::new();
    for (ring, gap) in [radius + 4, radius + 18, radius + 34].into_iter().enumerate() {
        let (near, far) = (gap, gap * 3 / 4);
        for (left, top) in [
            (x + near, y - height / 2),
            (x - near - width, y - height / 2),
            (x - width / 2, y - near - height),
            (x - width / 2, y + near),
            (x + far, y - far - height),
            (x + far, y + far),
            (x - far - width, y - far - height),
            (x - far - width, y + far),
        ] {
            out.push((Box::new(left, top, width, height), ring > 0));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_crowded_points_do_not_overlap() {
        let frame = Box::new(0, 0, 600, 300);
        let points: Vec<(i32, i32)> = (0..12).map(|i| (300 + (i % 4) * 17, 120 + (i / 4) * 19)).collect();
        let sizes = vec![(48, 14); 12];
        let placed = place(&points, &sizes, 6, frame, &[]);
        let boxes: Vec<Box> = placed.iter().map(|((l, t), _)| Box::new(*l, *t, 48, 14)).collect();
        let mut covered = 0;
        for (i, a) in boxes.iter().enumerate() {
            assert_eq!(a.outside(&frame), 0, "{a:?}");
            covered += boxes[..i].iter().map(|b| a.overlap(b)).sum::<i64>();
        }
        assert_eq!(covered, 0, "{boxes:?}");
        let alone = place(&points[..1], &sizes[..1], 6, frame, &[]);
        assert_eq!(alone, [((310, 113), false)], "with room, a label stands to the right");
        let corner = place(&[(595, 5)], &sizes[..1], 6, frame, &[]);
        assert!(corner[0].0.0 + 48 <= 595 && corner[0].0.1 >= 0, "{corner:?}");
    }
}
