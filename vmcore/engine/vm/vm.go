// Package vm is what is the same in every virtual machine, whichever engine
// boots it: the guest's kernel and initramfs, the disk that is the writable
// layer, and the host's end of the engine channel (package vmboot).
//
//	kernel, err := vm.FindKernel(dirs...)
//	artefacts, err := vm.Assemble(cacheDir, kernel, agent)
//	layer, err := vm.OpenLayer(ctx, spec.Layer, spec.DiskSize)
//	channel, err := vm.Greet(ctx, conn)
//
// On disk: CACHE/<key>.kernel and CACHE/<key>.initramfs, where the key says
// what they were made of, and LAYER/layer.img, a sparse raw ext4 image.
//
// Everything may be called concurrently, a Channel's methods excepted.
package vm
