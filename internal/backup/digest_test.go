package backup

import (
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"testing"
)

// The hashes are what anybody computes of the bytes, however they came in:
// as data, as zeroes without a buffer, in pieces across the ranges' ends.
func TestDigest(t *testing.T) {
	rng := rand.New(rand.NewPCG(seed(t), 0))
	const length = 1000
	for range 500 {
		whole, ranges := newWholeHash(), newRangeHash(length)
		var all []byte
		for range 1 + rng.IntN(8) {
			p := &piece{n: 1 + rng.Int64N(1500)}
			b := make([]byte, p.n)
			switch rng.IntN(3) {
			case 0: // a hole
				p.zero = true
			case 1: // zeroes that were read
				p.buf, p.zero = b, true
			default:
				b[rng.IntN(len(b))] = 1
				p.buf = b
			}
			whole.add(p)
			ranges.add(p)
			all = append(all, b...)
		}
		var want []string
		for part := range slices.Chunk(all, length) {
			sum := sha256.Sum256(part)
			if isZero(part) {
				want = append(want, zeroRange)
			} else {
				want = append(want, hex.EncodeToString(sum[:]))
			}
		}
		if got := ranges.sums(); !slices.Equal(got, want) {
			t.Fatalf("ranges %q, want %q", got, want)
		}
		if sum := sha256.Sum256(all); whole.sum() != hex.EncodeToString(sum[:]) {
			t.Fatalf("whole %s, want %x", whole.sum(), sum)
		}
	}
}
