package nbd

import (
	"testing"

	"cowl/internal/errs"
)

func TestParseURI(t *testing.T) {
	tests := []struct {
		text string
		want URI
		kind errs.Kind // of the error, Other for none
		back string    // what String makes of it, "" for the same text
	}{
		{"nbd+unix:///vol?socket=/run/cowl/vg.nbd", URI{"unix", "/run/cowl/vg.nbd", "vol"}, 0, ""},
		{"nbd+unix:///?socket=/s", URI{"unix", "/s", ""}, 0, ""},
		{"nbd+unix://?socket=/s", URI{"unix", "/s", ""}, 0, "nbd+unix:///?socket=/s"},
		{"nbd+unix:///a%20b%2525/c?socket=/x%20y%26z", URI{"unix", "/x y&z", "a b%25/c"}, 0, ""},
		{"nbd+unix:///a+b?tls-type=x&socket=/c++", URI{"unix", "/c++", "a+b"}, 0, "nbd+unix:///a+b?socket=/c%2B%2B"},
		{"nbd+unix:///vol?socket=relative", URI{"unix", "relative", "vol"}, 0, ""},
		{"nbd://host/vol", URI{"tcp", "host:10809", "vol"}, 0, "nbd://host:10809/vol"},
		{"nbd://[::1]:99/vol", URI{"tcp", "[::1]:99", "vol"}, 0, ""},
		{"nbd://host", URI{"tcp", "host:10809", ""}, 0, "nbd://host:10809/"},
		{"nbd+unix:///vol", URI{}, errs.Usage, ""},
		{"nbd+unix:///vol?socket=%zz", URI{}, errs.Usage, ""},
		{"nbd+unix://host/vol?socket=/s", URI{}, errs.Usage, ""},
		{"nbd:///vol", URI{}, errs.Usage, ""},
		{"nbds://host/vol", URI{}, errs.Unsupported, ""},
		{"nbds+unix:///vol?socket=/s", URI{}, errs.Unsupported, ""},
		{"http://host/vol", URI{}, errs.Usage, ""},
		{"/dev/vg/lv", URI{}, errs.Usage, ""},
		{":", URI{}, errs.Usage, ""},
		{"", URI{}, errs.Usage, ""},
	}
	for _, tt := range tests {
		u, err := ParseURI(tt.text)
		if tt.kind != errs.Other {
			if !errs.Is(err, tt.kind) {
				t.Errorf("%s: error %v, want %v", tt.text, err, tt.kind)
			}
			continue
		}
		if err != nil || u != tt.want {
			t.Errorf("%s: %+v, %v, want %+v", tt.text, u, err, tt.want)
			continue
		}
		back := tt.back
		if back == "" {
			back = tt.text
		}
		if got := u.String(); got != back {
			t.Errorf("%s: String %s, want %s", tt.text, got, back)
		}
		if again, err := ParseURI(u.String()); err != nil || again != u {
			t.Errorf("%s: came back as %+v, %v", tt.text, again, err)
		}
	}
}
