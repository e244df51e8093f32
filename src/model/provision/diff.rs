//! What differs between two texts, in the form that `diff -u` prints and `patch` reads.

/// Lines around a change.
const CONTEXT: usize = 3;

/// One line of both texts, side by side.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Same,
    Old,
    New,
}

/// The difference between `old` and `new`, under their names; empty where there is none.
pub fn unified(old_name: &str, old: &str, new_name: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let script = script(&old, &new);
    let mut text = String::new();
    let (mut old_at, mut new_at, mut start) = (0, 0, 0);
    while let Some(change) = (start..script.len()).find(|&at| script[at] != Side::Same) {
        let first = change.saturating_sub(CONTEXT).max(start);
        // A hunk ends where more lines are the same than two hunks have around them.
        let mut end = change;
        while let Some(next) = (end..script.len()).find(|&at| script[at] != Side::Same) {
            if next - end > 2 * CONTEXT {
                break;
            }
            end = next + 1;
        }
        let last = (end + CONTEXT).min(script.len());
        old_at += first - start;
        new_at += first - start;
        let hunk = &script[first..last];
        let old_lines = hunk.iter().filter(|side| **side != Side::New).count();
        let new_lines = hunk.iter().filter(|side| **side != Side::Old).count();
        if text.is_empty() {
            text = format!("--- {old_name}\n+++ {new_name}\n");
        }
        let place = |at: usize, count: usize| format!("{},{count}", if count == 0 { at } else { at + 1 });
        text.extend(["@@ -", &place(old_at, old_lines), " +", &place(new_at, new_lines), " @@\n"]);
        for side in hunk {
            let (mark, line) = match side {
                Side::Same => (' ', old[old_at]),
                Side::Old => ('-', old[old_at]),
                Side::New => ('+', new[new_at]),
            };
            old_at += usize::from(*side != Side::New);
            new_at += usize::from(*side != Side::Old);
            text.push(mark);
            text.push_str(line);
            text.push('\n');
        }
        start = last;
    }
    text
}

/// The shortest way from one text to the other: a longest common subsequence, by its table. Our texts have a few
/// hundred lines.
fn script(old: &[&str], new: &[&str]) -> Vec<Side> {
    let width = new.len() + 1;
    let mut common = vec![0_u32; (old.len() + 1) * width];
    for at in (0..old.len()).rev() {
        for other in (0..new.len()).rev() {
            common[at * width + other] = if old[at] == new[other] {
                common[(at + 1) * width + other + 1] + 1
            } else {
                common[(at + 1) * width + other].max(common[at * width + other + 1])
            };
        }
    }
    let (mut at, mut other) = (0, 0);
    let mut script = Vec::with_capacity(old.len() + new.len());
    while at < old.len() || other < new.len() {
        if at < old.len() && other < new.len() && old[at] == new[other] {
            script.push(Side::Same);
            at += 1;
            other += 1;
        } else if other == new.len()
            || (at < old.len() && common[(at + 1) * width + other] >= common[at * width + other + 1])
        {
            script.push(Side::Old);
            at += 1;
        } else {
            script.push(Side::New);
            other += 1;
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::unified;

    #[test]
    fn equal_texts_have_no_difference() {
        assert_eq!(unified("a", "1\n2\n", "b", "1\n2\n"), "");
        assert_eq!(unified("a", "", "b", ""), "");
    }

    #[test]
    fn changes_stand_with_three_lines_around_them_and_far_ones_apart() {
        let old: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let new = old.replace("\n5\n", "\nfive\n").replace("\n19\n", "\n");
        assert_eq!(
            unified("a", &old, "b", &new),
            "--- a\n+++ b\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n@@ -16,5 +16,4 @@\n 16\n 17\n 18\n-19\n 20\n"
        );
        assert_eq!(unified("a", "", "b", "x\n"), "--- a\n+++ b\n@@ -0,0 +1,1 @@\n+x\n");
    }
}
