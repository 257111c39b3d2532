package readonly_test

import (
	"bytes"
	"testing"

	"cowl/internal/block/blocktest"
	"cowl/internal/block/filter/readonly"
	"cowl/internal/block/mem"
)

func TestConformance(t *testing.T) {
	content := bytes.Repeat([]byte("read me "), 1000)
	below := mem.New(int64(len(content)) + 9000)
	if _, err := below.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	d := readonly.New(below)
	blocktest.RunReadOnly(t, d, append(content, make([]byte, 9000)...))
	if _, err := below.WriteAt([]byte("R"), 0); err != nil {
		t.Fatal(err)
	}
	if got := blocktest.ReadAll(t, d); got[0] != 'R' {
		t.Error("a write to the device below does not show")
	}
}
