package fsread

import "sync"

// cache keeps the most used pieces of metadata, up to a number of them. It
// gives every piece a second chance before it goes (the clock algorithm).
type cache struct {
	mu    sync.Mutex
	limit int
	at    map[uint64]int // where in slots
	slots []slot
	hand  int
}

type slot struct {
	key  uint64
	data []byte // nobody changes it
	used bool
}

// newCache makes a cache of at most limit pieces.
func newCache(limit int) *cache {
	return &cache{limit: max(limit, 1), at: map[uint64]int{}}
}

// get returns the piece, or reads it by load. Two callers may load the same
// piece at once, which costs time only.
func (c *cache) get(key uint64, load func() ([]byte, error)) ([]byte, error) {
	if data := c.look(key); data != nil {
		return data, nil
	}
	data, err := load()
	if err != nil {
		return nil, err
	}
	c.put(key, data)
	return data, nil
}

func (c *cache) look(key uint64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, ok := c.at[key]
	if !ok {
		return nil
	}
	c.slots[i].used = true
	return c.slots[i].data
}

func (c *cache) put(key uint64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.at[key]; ok {
		return
	}
	if len(c.slots) < c.limit {
		c.at[key] = len(c.slots)
		c.slots = append(c.slots, slot{key: key, data: data})
		return
	}
	for c.slots[c.hand].used {
		c.slots[c.hand].used = false
		c.hand = (c.hand + 1) % len(c.slots)
	}
	delete(c.at, c.slots[c.hand].key)
	c.slots[c.hand] = slot{key: key, data: data}
	c.at[key] = c.hand
	c.hand = (c.hand + 1) % len(c.slots)
}
