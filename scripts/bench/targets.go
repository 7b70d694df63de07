package main

// target is what cmkfs shall reach in a row: its gain over another, 0 if none is
// asked for.
type target struct {
	id        rowID
	gocryptfs float64
	native    float64
	most      float64 // of the figure itself
}

// targets are cmkfs's own, crypto on, everything durable as promised.
var targets = []target{
	{rowID{"A", "seq_write"}, 2, 0.6, 0},
	{rowID{"A", "daemon_cpu_per_gib"}, 1 / 0.7, 0, 0},
	{rowID{"B", "seq_read_cold"}, 1.25, 0.85, 0},
	{rowID{"B", "daemon_cpu_per_gib"}, 1 / 0.7, 0, 0},
	{rowID{"C", "seq_read_backing_warm"}, 1.5, 0, 0},
	{rowID{"D", "rand_read_cold_1t"}, 1.2, 0.9, 0},
	{rowID{"D", "rand_read_cold_4t"}, 1.2, 0.9, 0},
	{rowID{"D", "rand_read_warm_1t"}, 1.1, 0, 0},
	{rowID{"D", "rand_read_warm_4t"}, 1.1, 0, 0},
	{rowID{"E", "rand_write"}, 5, 0.15, 0},
	{rowID{"E", "rand_write_fdatasync"}, 2.7, 0.75, 0},
	{rowID{"F", "create"}, 2.5, 0.2, 0},
	{rowID{"F", "stat"}, 1.8, 0.25, 0},
	{rowID{"F", "read"}, 4, 1.3, 0},
	{rowID{"F", "rename"}, 2.7, 0.25, 0},
	{rowID{"F", "unlink"}, 3, 0.45, 0},
	{rowID{"G", "untar"}, 2.5, 0.2, 0},
	{rowID{"G", "read_cold"}, 2.5, 1.1, 0},
	{rowID{"G", "rm"}, 2.5, 0.5, 0},
	{rowID{"H", "insert_wal"}, 2, 1.2, 0},
	{rowID{"H", "insert_delete"}, 2.7, 1.1, 0},
	{rowID{"I", "init_add_commit"}, 2.5, 0.5, 0},
	{rowID{"I", "status_cold"}, 2, 0.15, 0},
	{rowID{"K", "build"}, 1.3, 0.9, 0},
	{rowID{"L", "small_op_p999"}, 0, 0, 50_000}, // microseconds: nothing stalls behind a checkpoint
}

// durable rows consist of operations that wait for the disk.
func (id rowID) durable() bool {
	switch id.metric {
	case "rand_write_fdatasync", "insert_wal", "insert_delete", "pgbench_1", "pgbench_8", "write_64k_fdatasync", "write_256k_fdatasync":
		return true
	}
	return false
}

// unjudged rows are shown without a comparison with the others: costs, single
// latencies, and what is no goal.
func (id rowID) unjudged() bool {
	switch id.metric {
	case "small_op_p50", "small_op_p99", "small_op_p999", "small_op_max", "small_ops", "overwrites", "checkpoints", "paced_small_op_p99",
		"daemon_cpu", "daemon_peak_rss", "daemon_cpu_per_gib",
		"rand_read_warm_1t_p50", "rand_read_warm_4t_p50", "rand_read_cold_1t_p50", "rand_read_cold_4t_p50",
		"rand_write_fdatasync_p50", "rand_write_fdatasync_p99":
		return true
	}
	return false
}
