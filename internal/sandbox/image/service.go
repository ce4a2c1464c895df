package image

import "path"

// Static is an image of one static program alone, under its own name: /coredns.
func Static(name, program string) *Image {
	entry := "/" + path.Base(program)
	im := New(name, entry)
	im.Copy(entry, program)
	return im
}

// API is the image of the service, as the Dockerfile makes it. The program must be built
// without cgo.
func API(name, program string) *Image {
	im := Static(name, program)
	im.Command = []string{"serve"}
	return im
}
