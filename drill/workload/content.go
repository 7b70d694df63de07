package workload

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
)

// blockSize is what is written and told apart, in bytes.
const blockSize = 4096

// header is the generation at the beginning of a block, in bytes.
const header = 8

// stream is the source of everything a place holds in one generation.
func stream(seed uint64, place string, gen uint64) *rand.ChaCha8 {
	b := binary.BigEndian.AppendUint64(nil, seed)
	b = binary.BigEndian.AppendUint64(b, gen)
	return rand.NewChaCha8(sha256.Sum256(append(b, place...)))
}

// fill makes b what a place holds in a generation. b has a header at least.
func fill(b []byte, seed uint64, place string, gen uint64) {
	binary.BigEndian.PutUint64(b, gen)
	_, _ = stream(seed, place, gen).Read(b[header:])
}

// generation returns of which generation b is; 0 = nothing was ever written
// there. ok is false if b is none of the workload's data, or damaged.
func generation(b []byte, seed uint64, place string) (gen uint64, ok bool) {
	if len(b) < header {
		return 0, len(b) == 0
	}
	gen = binary.BigEndian.Uint64(b)
	want := make([]byte, len(b))
	if gen != 0 {
		fill(want, seed, place, gen)
	}
	return gen, bytes.Equal(b, want)
}

// mixture says whether every 64 bytes of b are those of one of the generations:
// a page that the kernel took while it was being changed.
func mixture(b []byte, seed uint64, place string, gens []uint64) bool {
	const part = 64
	var candidates [][]byte
	for _, g := range gens {
		c := make([]byte, len(b))
		if g != 0 {
			fill(c, seed, place, g)
		}
		candidates = append(candidates, c)
	}
	for at := 0; at < len(b); at += part {
		end := min(at+part, len(b))
		found := false
		for _, c := range candidates {
			found = found || bytes.Equal(b[at:end], c[at:end])
		}
		if !found {
			return false
		}
	}
	return true
}

// text is what an appended file has from one offset to another: one stream that
// depends on nothing but the file.
func text(seed uint64, place string, from, to int64) []byte {
	const piece = 512
	var out []byte
	for at := from / piece; at*piece < to; at++ {
		b := make([]byte, piece)
		_, _ = stream(seed, place, uint64(at)).Read(b)
		out = append(out, b...)
	}
	skip := from % piece
	return out[skip : skip+to-from]
}
