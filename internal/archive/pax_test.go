package archive

import (
	"testing"
	"time"
)

func TestPaxTime(t *testing.T) {
	for _, c := range []struct {
		s, ns int64
		want  string
	}{
		{0, 0, "0"}, {1, 500_000_000, "1.5"}, {1700000000, 1, "1700000000.000000001"},
		{-2, 750_000_000, "-1.25"}, {-1, 500_000_000, "-0.5"}, {-5, 0, "-5"}, {1 << 40, 0, "1099511627776"},
	} {
		if got := paxTime(time.Unix(c.s, c.ns)); got != c.want {
			t.Errorf("paxTime(%d s, %d ns) = %s, want %s", c.s, c.ns, got, c.want)
		}
	}
}

// A record's length counts its own digits: the places where it grows by one
// are where readers lose their footing.
func TestPaxRecordLengths(t *testing.T) {
	for n := range 2000 {
		value := string(make([]byte, n))
		b := appendRecords(nil, []record{{"k", value}})
		var length int
		for i := 0; b[i] != ' '; i++ {
			length = 10*length + int(b[i]-'0')
		}
		if length != len(b) {
			t.Fatalf("value of %d bytes: the record says %d and has %d", n, length, len(b))
		}
	}
}
