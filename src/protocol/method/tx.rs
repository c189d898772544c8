//! Class `tx`: transactions over the publishes and acks of a channel (spec 1.9).

class! {
    90 "tx" Method;

    /// Makes the channel transactional.
    10 "select" Select from client -> "select-ok" {}
    /// Confirms `select`.
    11 "select-ok" SelectOk from server {}
    /// Commits the publishes and acknowledgements since the last commit or rollback.
    20 "commit" Commit from client -> "commit-ok" {}
    /// Confirms that the commit took effect.
    21 "commit-ok" CommitOk from server {}
    /// Discards the publishes and acknowledgements since the last commit or rollback.
    30 "rollback" Rollback from client -> "rollback-ok" {}
    /// Confirms the rollback.
    31 "rollback-ok" RollbackOk from server {}
}
