package lvmtest

import (
	"strings"
	"testing"
)

// A judge that saw the machine's own devices, or none, would prove nothing.
func TestSeesExactlyTheAttachedDevices(t *testing.T) {
	l := New(t)
	devs, images := l.Create(64<<20, 64<<20)
	l.Run("vgcreate", "judged", devs[0], devs[1])
	if got := strings.Fields(l.Run("pvs", "--noheadings", "-o", "pv_name,vg_name")); len(got) != 4 {
		t.Fatalf("pvs shows %q, want the two PVs of judged", got)
	}

	l.Detach()
	if got := l.Run("pvs", "--noheadings"); got != "" {
		t.Fatalf("pvs shows %q after Detach", got)
	}
	if _, _, err := l.Try("vgck", "judged"); err == nil {
		t.Fatal("vgck of a detached group succeeds")
	}
	l.Attach(images...)
	l.Run("vgck", "judged")
}
