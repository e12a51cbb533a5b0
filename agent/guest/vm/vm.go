// Package vm is the first process of a virtual machine: it brings the machine
// to where package guest can serve, and does what the engine asks of it
// meanwhile (package vmboot has the words).
//
// The kernel starts it from an initramfs that holds, and nothing else:
//
//	/init            the agent, started as "init vm"
//	/modules/NN-*.ko the kernel's modules, in the order in which they are loaded
//
// It mounts the EROFS base below the writable layer, an ext4 file system, with
// overlayfs, and moves its root there; what was in the initramfs is gone then.
// Device nodes can be made in a box but not opened: the box's root is mounted
// nodev.
//
// What it says goes to the kernel's console. If it ends, the kernel panics, and
// the engine sees that.
package vm
