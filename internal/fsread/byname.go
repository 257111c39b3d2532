package fsread

import (
	"errors"
	"iter"
)

// Budget bounds how many entries of directories that are read by name are held
// at a time, by all that share it.
type Budget struct{ spare int }

// NewBudget returns a budget for one walk.
func NewBudget() *Budget { return &Budget{spare: 4 * walkBatch} }

// errStopped ends the reading of a directory whose consumer wants no more.
var errStopped = errors.New("stopped")

// ReadByName yields a directory's entries by name, "." and ".." left out: those
// for which keep is true, all of them if it is nil. An error concerns a part
// of the directory, as ReadDir's does. A directory of more entries than the budget
// has left is read several times.
func (f *FS) ReadByName(n *Node, b *Budget, keep func(*Entry) bool) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		damage := func(it *Item) error {
			if !yield(Entry{}, it.Err) {
				return errStopped
			}
			return nil
		}
		w := &walker{fs: f, o: WalkOptions{Order: ByName}, visit: damage}
		for r := (dirReader{w: w, dir: &Item{Ino: n.Ino, Node: n}, keep: keep}); ; {
			// Half, since as a rule two directories are read side by side.
			batch, err := r.next(max(minBatch, b.spare/2))
			if err != nil || len(batch) == 0 || !b.hand(batch, yield) {
				return
			}
		}
	}
}

// hand passes entries on while they count as held. It returns false when no more
// are wanted.
func (b *Budget) hand(batch []Entry, yield func(Entry, error) bool) bool {
	b.spare -= len(batch)
	defer func() { b.spare += len(batch) }()
	for _, e := range batch {
		if !yield(e, nil) {
			return false
		}
	}
	return true
}
