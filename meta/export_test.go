package meta

// Checkpoint writes a checkpoint now.
func (v *Volume) Checkpoint() error { return v.checkpoint() }
