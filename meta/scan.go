package meta

import "github.com/tidwall/btree"

// mergeScan walks overlays (newest first) and the index as one ordered table,
// the newest value of a key winning and deleted ones left out.
func mergeScan(from key, layers []*overlay, index *indexIter, fn func(k key, val []byte) bool) error {
	iters := make([]overlayIter, len(layers))
	for i, l := range layers {
		iters[i] = newOverlayIter(l, from)
		defer iters[i].it.Release()
	}
	if err := index.seek(from); err != nil {
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
				iters[i].next(from)
			}
		}
		if index.ok && index.key == best {
			if !found {
				var err error
				if val, err = index.value(); err != nil {
					return err
				}
			}
			index.next(from)
		}
		if val != nil && !fn(best, val) {
			return nil
		}
	}
}

// overlayIter walks one overlay within (from.t, from.a).
type overlayIter struct {
	it btree.IterG[item]
	ok bool
}

func newOverlayIter(o *overlay, from key) overlayIter {
	it := o.tree.Iter()
	i := overlayIter{it: it}
	i.ok = i.it.Seek(item{key: from}) && i.within(from)
	return i
}

func (i *overlayIter) within(from key) bool {
	k := i.it.Item().key
	return k.t == from.t && k.a == from.a
}

func (i *overlayIter) next(from key) { i.ok = i.it.Next() && i.within(from) }
