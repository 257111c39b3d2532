//go:build linux

package kernel

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"cowl/internal/block/blocktest"
)

// ledger is what the volumes of one group must hold, whoever keeps it.
type ledger struct {
	t       *testing.T
	rng     *rand.Rand
	content map[string][]byte
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	return &ledger{t: t, rng: rand.New(rand.NewPCG(blocktest.Seed(t), 0)), content: map[string][]byte{}}
}

func (m *ledger) must(k keeper, format string, args ...any) {
	m.t.Helper()
	command := fmt.Sprintf(format, args...)
	if out, status := k.run(command); status != 0 {
		m.t.Fatalf("%s: %s: status %d\n%s", k.name(), command, status, out)
	}
}

func (m *ledger) write(k keeper, ws ...lvWrite) {
	m.t.Helper()
	for _, w := range ws {
		copy(m.content[w.lv][w.off:], w.data)
	}
	if err := k.write(ws); err != nil {
		m.t.Fatalf("%s: %v", k.name(), err)
	}
}

func (m *ledger) writeSome(k keeper, lvs ...string) {
	m.t.Helper()
	var ws []lvWrite
	for range 40 {
		lv := lvs[m.rng.IntN(len(lvs))]
		off := m.rng.Int64N(int64(len(m.content[lv]))/512-64) * 512
		ws = append(ws, lvWrite{lv, off, bytes.Repeat([]byte{byte(m.rng.Uint32())}, 512*(1+m.rng.IntN(63)))})
	}
	m.write(k, ws...)
}

func (m *ledger) compare(k keeper) {
	m.t.Helper()
	for lv, want := range m.content {
		got, err := k.whole(lv)
		if err != nil {
			m.t.Fatalf("%s: %v", k.name(), err)
		}
		if at := differ(got, want); at >= 0 {
			m.t.Fatalf("%s: %s differs first in sector %d", k.name(), lv, at/512)
		}
	}
}
