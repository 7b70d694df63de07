package meta

import (
	"fmt"
)

// Position says how far a volume has got, for whoever wants to notice that an
// older copy was put in its place. Only what is durable is in it: no crash
// leaves a volume behind its position.
type Position struct {
	Checkpoints uint64   `json:"checkpoints"` // written so far
	Operation   uint64   `json:"operation"`   // the last durable one
	SetHash     [32]byte `json:"setHash"`     // of the index as of the last checkpoint; tells two histories apart
}

// OlderError reports a volume that is behind a position it has had.
type OlderError struct {
	Have, Seen Position
}

func (e *OlderError) Error() string {
	if e.Have.Checkpoints == e.Seen.Checkpoints && e.Have.Operation >= e.Seen.Operation {
		return fmt.Sprintf("this is another copy of the volume than the one last in use: its checkpoint %d has other contents", e.Have.Checkpoints)
	}
	return fmt.Sprintf("this is an older copy of the volume: it has %d checkpoints and %d operations, and had %d and %d before",
		e.Have.Checkpoints, e.Have.Operation, e.Seen.Checkpoints, e.Seen.Operation)
}

// LostError reports that operations are missing which programs were told of that
// have files open: what they would write next would be based on what is not there.
type LostError struct {
	Have, Answered uint64
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the disk has lost the end of what was answered and not flushed, from operation %d of %d on", e.Have+1, e.Answered)
}

// Position returns how far the volume has got. It costs nothing and may be
// called at any time.
func (v *Volume) Position() Position {
	p := *v.checkpointed.Load()
	p.Operation = max(p.Operation, v.journal.durable.Load())
	return p
}

// Reached is the last operation that the death of this process does not undo.
func (v *Volume) Reached() uint64 { return v.journal.written.Load() }

// compare returns an OlderError if the volume, as it was recovered, is behind
// a position, nil included.
func (v *Volume) compare(seen *Position) error {
	if seen == nil {
		return nil
	}
	have := v.Position()
	have.Operation = v.seq
	older := have.Checkpoints < seen.Checkpoints || have.Operation < seen.Operation
	if older || have.Checkpoints == seen.Checkpoints && have.SetHash != seen.SetHash {
		return &OlderError{Have: have, Seen: *seen}
	}
	return nil
}

// position is that of a state of the index.
func (s *summary) position() *Position {
	return &Position{Checkpoints: s.commits, Operation: s.seq, SetHash: s.setHash}
}

// prove leaves a marker that says what is durable by now, so that the damage
// of the last records before it is told from a crash. It need not be durable.
func (v *Volume) prove() {
	durable := v.journal.durable.Load()
	if durable == v.proven {
		return
	}
	if err := v.journal.marker(durable); err != nil {
		v.fail(err)
		return
	}
	v.proven = durable
}
