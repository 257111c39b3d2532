package config

import (
	"fmt"
	"strings"
	"testing"

	"cowl/internal/errs"
)

func TestSettings(t *testing.T) {
	list, err := Settings("f", []byte(`# a file
a/b = 1
s {

	k = "x" # remark
	t {
		u = [
			1
		]
	}
	empty {
	}
	v = 2
}
w = 3`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		got = append(got, fmt.Sprintf("%d:%s", s.Line, s.Path))
	}
	if want := "2:a/b 5:s/k 7:s/t/u 13:s/v 15:w"; strings.Join(got, " ") != want {
		t.Errorf("got %s, want %s", strings.Join(got, " "), want)
	}
	_, err = Settings("/etc/f", []byte("a = 1\nb = {\n"))
	if !errs.Is(err, errs.Corrupt) || !strings.HasPrefix(err.Error(), "/etc/f line 2: ") {
		t.Error(err)
	}
}

// Every entry of a text has its line.
func FuzzSettings(f *testing.F) {
	f.Add([]byte("a { b = 1 c { d = [1,2] } } e=2"))
	f.Add([]byte("a/b = 1\n\nc {\n}\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		list, err := Settings("f", text)
		if err != nil {
			return
		}
		last := 1
		for _, s := range list {
			if s.Line < last || s.Line > 1+strings.Count(string(text), "\n") {
				t.Fatalf("%s is in line %d, behind line %d", s.Path, s.Line, last)
			}
			last = s.Line
		}
	})
}
