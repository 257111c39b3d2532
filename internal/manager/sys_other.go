//go:build !linux

package manager

// Only Linux has block devices and loop devices that cowl uses.

func loopFile(string) string                    { return "" }
func isPartition(string) bool                   { return false }
func hasPartitionDevices(string) bool           { return false }
func deviceNumber(string) (major, minor uint32) { return 0, 0 }
func blockDevices(string) []string              { return nil }

func standsOn(uint32, uint32, map[string]bool) bool { return false }
