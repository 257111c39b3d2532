//go:build !linux

package hostlvm

import (
	"syscall"

	"cowl/internal/devmapper"
	"cowl/internal/freeze"
)

// Only Linux has device-mapper: nothing here is reached elsewhere.

func holders(freeze.Device) []string { return nil }

func ownFiles(freeze.Device) int { return 0 }

func numberOf(string) freeze.Device { return freeze.Device{} }

type standing struct{ indirect []freeze.Mount }

func standingOn(devmapper.Info) (standing, error) { return standing{}, nil }

func (standing) needed(string) bool { return false }

func ownGroup() *syscall.SysProcAttr { return nil }
