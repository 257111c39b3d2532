package volume

import (
	"sync/atomic"
)

var idCount atomic.Uint64

// testID returns a UUID that no other call returns.
func testID() UUID {
	var r [32]byte
	n := idCount.Add(1)
	for i := range r {
		r[i] = byte(n % 62)
		n /= 62
	}
	return UUIDFrom(r)
}

func testStamp() Stamp { return Stamp{NewID: testID, Time: 1700000000, Host: "tester"} }
