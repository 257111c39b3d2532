package nbd

import (
	"net"
	"net/url"
	"strings"

	"cowl/internal/errs"
)

// URI names an export the way that NBD clients do: nbd+unix:///NAME?socket=PATH,
// or nbd://HOST:PORT/NAME.
type URI struct {
	Network string // "unix" or "tcp"
	Addr    string // the socket's path, or host:port
	Export  string
}

// defaultPort is NBD's.
const defaultPort = "10809"

// ParseURI reads the schemes nbd and nbd+unix. TLS is errs.Unsupported,
// anything else errs.Usage.
func ParseURI(text string) (URI, error) {
	u, err := url.Parse(text)
	if err != nil {
		return URI{}, errs.E(errs.Usage, "NBD URI %q: %w", text, err)
	}
	export := strings.TrimPrefix(u.Path, "/")
	switch u.Scheme {
	case "nbd+unix":
		socket := socketOf(u.RawQuery)
		if socket == "" || u.Host != "" {
			return URI{}, errs.E(errs.Usage, "NBD URI %q: want nbd+unix:///NAME?socket=PATH", text)
		}
		return URI{"unix", socket, export}, nil
	case "nbd":
		if u.Hostname() == "" {
			return URI{}, errs.E(errs.Usage, "NBD URI %q: want nbd://HOST:PORT/NAME", text)
		}
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		return URI{"tcp", net.JoinHostPort(u.Hostname(), port), export}, nil
	case "nbds", "nbds+unix":
		return URI{}, errs.E(errs.Unsupported, "NBD URI %q: TLS is not supported", text)
	}
	return URI{}, errs.E(errs.Usage, "NBD URI %q: want the scheme nbd+unix or nbd", text)
}

// socketOf returns the socket parameter of a query, "" if there is none. A plus
// sign is itself, as other NBD programs have it, not a space.
func socketOf(query string) string {
	for part := range strings.SplitSeq(query, "&") {
		if value, ok := strings.CutPrefix(part, "socket="); ok {
			if path, err := url.PathUnescape(value); err == nil {
				return path
			}
		}
	}
	return ""
}

// String returns the URI as text that ParseURI and other programs read.
func (u URI) String() string {
	out := url.URL{Scheme: "nbd", Host: u.Addr, Path: "/" + u.Export}
	if u.Network == "unix" {
		escaped := url.QueryEscape(u.Addr)
		out.Scheme, out.Host = "nbd+unix", ""
		out.RawQuery = "socket=" + strings.NewReplacer("%2F", "/", "+", "%20").Replace(escaped)
	}
	return out.String()
}
