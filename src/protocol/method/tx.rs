//! Class `tx`: transactions over the publishes and acks of a channel (spec 1.9).

class! {
    90 "tx" Method;

    /// Makes the channel transactional.
    10 "select" Select from client -> "select-ok" {}
    /// It is.
    11 "select-ok" SelectOk from server {}
    /// Commits what was published and settled since the last time.
    20 "commit" Commit from client -> "commit-ok" {}
    /// It took effect.
    21 "commit-ok" CommitOk from server {}
    /// Drops what was published and settled since the last time.
    30 "rollback" Rollback from client -> "rollback-ok" {}
    /// It is as it was.
    31 "rollback-ok" RollbackOk from server {}
}
