//! Checks that the list of cases is complete.

use std::fs;
use std::path::Path;

#[test]
fn every_case_is_in_the_list() -> Result<(), Box<dyn std::error::Error>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let list = fs::read_to_string(source.join("cases.rs"))?;
    let listed = |case: &str| list.lines().filter(|line| line.trim() == case).count();
    let mut cases = 0;
    for file in fs::read_dir(&source)? {
        let text = fs::read_to_string(file?.path())?;
        for case in text
            .lines()
            .filter_map(|line| line.strip_prefix("pub async fn "))
        {
            let Some((case, _)) = case.split_once("<R: Runtime>(") else {
                continue;
            };
            assert_eq!(listed(case), 1, "{case} must be listed once");
            cases += 1;
        }
    }
    assert!(cases > 100, "{cases} cases");
    Ok(())
}
