// Command init is process 1 of the kernel harness's initramfs.
package main

import (
	"fmt"

	"cowl/internal/kerneltest/guest"
)

func main() {
	if err := guest.Main(); err != nil {
		fmt.Println("cowl init:", err)
		guest.PowerOff()
	}
}
