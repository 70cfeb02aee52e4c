package pvetest

import (
	"bytes"
	"encoding/binary"
	"strings"
)

const sector = 2048

// readISO returns the label and the files in the root directory of an ISO 9660
// image (ECMA-119), by the names that Linux gives them; an image that is none
// has no label.
func readISO(image []byte) (label string, files map[string][]byte) {
	at := func(block, size uint32) []byte {
		from := uint64(block) * sector
		if from+uint64(size) > uint64(len(image)) {
			return nil
		}
		return image[from : from+uint64(size)]
	}
	volume := at(16, sector)
	if volume == nil || string(volume[1:6]) != "CD001" || volume[0] != 1 {
		return "", nil
	}
	files = map[string][]byte{}
	root := volume[156:190]
	dir := at(binary.LittleEndian.Uint32(root[2:]), binary.LittleEndian.Uint32(root[10:]))
	for len(dir) > 0 {
		n := int(dir[0])
		if n == 0 { // the rest of a sector is empty
			dir = dir[min(len(dir), max(1, len(dir)%sector)):]
			continue
		}
		if n < 34 || n > len(dir) || 33+int(dir[32]) > n {
			break
		}
		name, _, _ := bytes.Cut(dir[33:33+int(dir[32])], []byte(";"))
		if dir[25]&2 == 0 { // no directory
			files[strings.TrimSuffix(strings.ToLower(string(name)), ".")] = at(binary.LittleEndian.Uint32(dir[2:]), binary.LittleEndian.Uint32(dir[10:]))
		}
		dir = dir[n:]
	}
	return strings.TrimRight(string(volume[40:72]), " \x00"), files
}

// seed is what cloud-init finds on a drive for NoCloud.
func (spec GuestSpec) seed() map[string][]byte {
	for _, image := range spec.Media {
		if label, files := readISO(image); strings.EqualFold(label, "cidata") && files["user-data"] != nil && files["meta-data"] != nil {
			return files
		}
	}
	return nil
}
