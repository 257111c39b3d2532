package nbd

import (
	"errors"

	"cowl/internal/errs"
)

// The error numbers that the protocol allows.
const (
	nbdEPERM     = 1
	nbdEIO       = 5
	nbdENOMEM    = 12
	nbdEINVAL    = 22
	nbdENOSPC    = 28
	nbdEOVERFLOW = 75
	nbdENOTSUP   = 95
	nbdESHUTDOWN = 108
)

// errNotFast answers FAST_ZERO where zeroes take as long as any other bytes.
// It is the one use of ENOTSUP that the protocol allows.
var errNotFast = errs.E(errs.Unsupported, "zeroes are no faster than data here")

// errnoOf returns what a client is told of an error.
func errnoOf(err error) uint32 {
	if errors.Is(err, errNotFast) {
		return nbdENOTSUP
	}
	switch errs.KindOf(err) {
	case errs.NoSpace:
		return nbdENOSPC
	case errs.Conflict, errs.Denied:
		return nbdEPERM
	case errs.Usage:
		return nbdEINVAL
	}
	return nbdEIO
}

// kindOf is what a server's error number means to a caller here.
func kindOf(errno uint32) errs.Kind {
	switch errno {
	case nbdENOSPC:
		return errs.NoSpace
	case nbdEPERM:
		return errs.Conflict
	case nbdEINVAL, nbdEOVERFLOW:
		return errs.Usage
	case nbdENOTSUP:
		return errs.Unsupported
	case nbdESHUTDOWN:
		return errs.Busy
	}
	return errs.Other
}

var errnoTexts = map[uint32]string{
	nbdEPERM:     "operation not permitted",
	nbdEIO:       "input/output error",
	nbdENOMEM:    "server out of memory",
	nbdEINVAL:    "invalid argument",
	nbdENOSPC:    "no space left on device",
	nbdEOVERFLOW: "request too large",
	nbdENOTSUP:   "operation not supported",
	nbdESHUTDOWN: "server is shutting down",
}

// errnoText names an error number for people.
func errnoText(errno uint32) string {
	if text, ok := errnoTexts[errno]; ok {
		return text
	}
	return "unknown error"
}
