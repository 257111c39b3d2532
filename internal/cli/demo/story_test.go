package demo_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	_ "cowl/internal/cli" // the program that is built: a change there runs this again
	"cowl/internal/cli/demo"
)

// Where e2fsprogs are missing, the story is told with a pattern.
func TestWithoutFileSystem(t *testing.T) {
	dir, err := os.MkdirTemp("", "cowl-demo-") // short: sockets will be in it
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(t.TempDir(), "cowl")
	build := exec.Command("go", "build", "-o", program, "cowl/cmd/cowl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var out bytes.Buffer
	o := demo.Options{Out: &out, Executable: program, Environ: os.Environ(), Dir: dir}.WithPattern()
	if err := demo.Run(context.Background(), o); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{"All of it held", "the pattern is damaged", "the pattern has the SHA-256 that it had"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "e2fsck") {
		t.Errorf("it uses what is not there:\n%s", &out)
	}
}
