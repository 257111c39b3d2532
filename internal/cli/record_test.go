package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cowl/internal/kerneltest"
)

// TestRecordings makes the recordings of testdata/kernel anew on a real kernel
// and compares with them. It takes minutes of emulation: COWL_LONG=1. With
// COWL_RECORD=1 it also replaces the recordings; read the difference.
func TestRecordings(t *testing.T) {
	if os.Getenv("COWL_LONG") != "1" && os.Getenv("COWL_RECORD") != "1" {
		t.Skip("COWL_LONG=1 asks a real kernel anew")
	}
	script, err := os.ReadFile("testdata/kernel/record.sh")
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for _, mib := range []int64{260, 260, 64} {
		f, err := os.CreateTemp(t.TempDir(), "*.img")
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(mib << 20); err != nil {
			t.Fatal(err)
		}
		f.Close()
		images = append(images, f.Name())
	}
	vm := kerneltest.Boot(t, images...)
	prelude, steps, _ := strings.Cut(string(script), "\n### ")
	recorded := 0
	for _, step := range strings.Split(steps, "\n### ") {
		name, commands, _ := strings.Cut(step, "\n")
		output, _ := vm.Try(prelude + "\n" + commands)
		if !strings.HasPrefix(output, "-- ") {
			t.Logf("%s: %s", name, output)
			continue
		}
		recorded++
		text := "LVM2 on a real kernel: groups, what device-mapper said of them, and what lvm printed.\n\n" + strings.TrimRight(output, "\n") + "\n"
		file := filepath.Join(t.TempDir(), name)
		if os.Getenv("COWL_RECORD") == "1" {
			file = filepath.Join("testdata", "kernel", name+".txtar")
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { compareRecording(t, file) })
	}
	if recorded != 5 {
		t.Errorf("%d states were recorded, want 5", recorded)
	}
}
