package qcow2

import "sync"

// cacheBytes is how much decompressed data an image keeps: enough for a few
// readers in a row of 4 KiB requests each.
const cacheBytes = 8 << 20

// cache holds the clusters that were decompressed last, the oldest first.
type cache struct {
	most int // clusters

	mu       sync.Mutex
	clusters []decodedCluster
}

type decodedCluster struct {
	no   int64
	data []byte // never changed
}

func (c *cache) init(cluster int64) { c.most = int(min(max(cacheBytes/cluster, 2), 64)) }

// get returns a cluster's data, nil if it is not there.
func (c *cache) get(no int64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.clusters) - 1; i >= 0; i-- {
		if c.clusters[i].no == no {
			return c.clusters[i].data
		}
	}
	return nil
}

func (c *cache) put(no int64, data []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.clusters) == c.most {
		copy(c.clusters, c.clusters[1:])
		c.clusters = c.clusters[:c.most-1]
	}
	c.clusters = append(c.clusters, decodedCluster{no, data})
}
