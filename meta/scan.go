package meta

import "github.com/tidwall/btree"

// span is what a scan covers: the keys of (from.t, from.a) from b on, or all
// keys of the table from there.
type span struct {
	from  key
	table bool
}

func (s span) contains(k key) bool { return k.t == s.from.t && (s.table || k.a == s.from.a) }

// mergeScan walks overlays (newest first) and the index as one ordered table,
// the newest value of a key winning and deleted ones left out.
func mergeScan(in span, layers []*overlay, index *indexIter, fn func(k key, val []byte) bool) error {
	iters := make([]overlayIter, len(layers))
	for i, l := range layers {
		iters[i] = newOverlayIter(l, in)
		defer iters[i].it.Release()
	}
	if err := index.seek(in); err != nil {
		return err
	}
	for {
		// The smallest key over all sources; on a tie the newest source is met first.
		best, have := key{}, false
		for i := range iters {
			if iters[i].ok && (!have || iters[i].it.Item().key.less(best)) {
				best, have = iters[i].it.Item().key, true
			}
		}
		if index.ok && (!have || index.key.less(best)) {
			best, have = index.key, true
		}
		if !have {
			return nil
		}
		var val []byte
		found := false
		for i := range iters {
			if iters[i].ok && iters[i].it.Item().key == best {
				if !found {
					val, found = iters[i].it.Item().val, true
				}
				iters[i].next(in)
			}
		}
		if index.ok && index.key == best {
			if !found {
				var err error
				if val, err = index.value(); err != nil {
					return err
				}
			}
			index.next(in)
		}
		if val != nil && !fn(best, val) {
			return nil
		}
	}
}

// overlayIter walks one overlay within a span.
type overlayIter struct {
	it btree.IterG[item]
	ok bool
}

func newOverlayIter(o *overlay, in span) overlayIter {
	i := overlayIter{it: o.tree.Iter()}
	i.ok = i.it.Seek(item{key: in.from}) && in.contains(i.it.Item().key)
	return i
}

func (i *overlayIter) next(in span) { i.ok = i.it.Next() && in.contains(i.it.Item().key) }
