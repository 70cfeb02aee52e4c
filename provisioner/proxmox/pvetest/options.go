package pvetest

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// vmOptions are the options of a VM, by the privilege that changing them needs
// (API2/Qemu.pm check_vm_modify_config_perm). "root" is root@pam itself.
var vmOptions = map[string]string{
	"VM.Config.CPU": "cores=int,min=1 cpu=property cpulimit=num,min=0,max=128 cpuunits=int,min=1,max=262144 numa=bool smp=int,min=1" +
		" sockets=int,min=1 vcpus=int,min=1 affinity=property numa[n]=property",
	"VM.Config.Memory": "balloon=int,min=0 hugepages=enum:any/2/1024 keephugepages=bool memory=memory shares=int,min=0,max=50000",
	"VM.Config.HWType": "acpi=bool arch=enum:x86_64/aarch64 audio0=property amd-sev=property hotplug=property ivshmem=property kvm=bool" +
		" machine=property rng0=property scsihw=enum:lsi/lsi53c810/virtio-scsi-pci/virtio-scsi-single/megasas/pvscsi serial[n]=re:(/dev/.+|socket)" +
		" smbios1=property,len=512 spice_enhancements=property tablet=bool usb[n]=property vga=property watchdog=property" +
		" vmgenid=re:(?:[a-fA-F0-9]{8}(?:-[a-fA-F0-9]{4}){3}-[a-fA-F0-9]{12}|[01]) virtiofs[n]=property",
	"VM.Config.Options": "agent=agent autostart=bool bios=enum:seabios/ovmf description=string,len=8192 freeze=bool" +
		" keyboard=enum:de/de-ch/da/en-gb/en-us/es/fi/fr/fr-be/fr-ca/fr-ch/hu/is/it/ja/lt/mk/nl/no/pl/pt/pt-br/sv/sl/tr localtime=bool" +
		" migrate_downtime=num,min=0 migrate_speed=int,min=0 name=dns-name onboot=bool" +
		" ostype=enum:other/wxp/w2k/w2k3/w2k8/wvista/win7/win8/win10/win11/l24/l26/solaris protection=bool reboot=bool" +
		" startdate=re:(now|\\d{4}-\\d{1,2}-\\d{1,2}(T\\d{1,2}:\\d{1,2}:\\d{1,2})?) startup=property tags=tag-list tdf=bool template=bool",
	"VM.Config.Disk": "boot=property bootdisk=re:(ide|sata|scsi|virtio)\\d+ efidisk0=efidisk ide[n]=ide sata[n]=sata scsi[n]=scsi" +
		" tpmstate0=tpmstate unused[n]=unused virtio[n]=virtio vmstatestorage=storage-id cdrom=ide",
	"VM.Config.Network": "net[n]=net",
	"VM.Config.Cloudinit": "cicustom=cicustom cipassword=string citype=enum:configdrive2/nocloud/opennebula ciupgrade=bool ciuser=string" +
		" ipconfig[n]=ipconfig nameserver=address-list searchdomain=string sshkeys=urlencoded",
	"root": "args=string hookscript=volume hostpci[n]=property parallel[n]=re:/dev/parport\\d+|/dev/usb/lp\\d+" +
		" lock=enum:backup/clone/create/migrate/rollback/snapshot/snapshot-delete/suspending/suspended",
}

// vmOptions9 are new since 9.0.
var vmOptions9 = map[string]string{"VM.Config.Options": "allow-ksm=bool", "VM.Config.HWType": "intel-tdx=property"}

// optionText is the table of all options for the parameters of a call.
func optionText(tables map[string]string) string {
	all := make([]string, 0, len(tables))
	for _, t := range tables {
		all = append(all, t)
	}
	return strings.Join(all, " ")
}

// option is what an option of a VM may be and who may change it.
type option struct {
	*param
	priv string
}

func vmOptionTable() map[string]option {
	table := map[string]option{}
	for _, tables := range []map[string]string{vmOptions, vmOptions9} {
		for priv, text := range tables {
			for name, p := range parseParams(text) {
				table[name] = option{p, priv}
			}
		}
	}
	return table
}

// option finds an option by its full name.
func (c *Cluster) option(name string) (option, bool) {
	if o, ok := c.options[name]; ok {
		return o, true
	}
	if m := indexed.FindStringSubmatch(name); m != nil {
		if n, _ := strconv.Atoi(m[2]); n < maxIndex(m[1]) {
			o, ok := c.options[m[1]+"[n]"]
			return o, ok
		}
	}
	return option{}, false
}

// jsonValue is a value as PVE's JSON has it: a number where the option is an
// integer or a boolean, else a string, even if it looks like a number.
func jsonValue(p *param, v string) any {
	if p == nil {
		return v
	}
	switch p.kind {
	case "integer", "number":
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			return n
		}
	case "boolean":
		return number(isTrue(v))
	}
	return v
}

var driveKey = regexp.MustCompile(`^(ide|sata|scsi|virtio|efidisk|tpmstate)\d+$`)

// drive is a disk option taken apart.
type drive struct {
	key   string
	file  string // volume id, none, or cdrom
	props params // all the others
}

func parseDrive(key, v string) drive {
	d := drive{key: key, props: params{}}
	for part := range strings.SplitSeq(v, ",") {
		k, val, ok := strings.Cut(part, "=")
		if !ok || k == "file" || k == "volume" {
			d.file = part
			if ok {
				d.file = val
			}
			continue
		}
		d.props[k] = val
	}
	return d
}

// String is in the order in which PVE writes it, whatever it was given in.
func (d drive) String() string {
	var out strings.Builder
	out.WriteString(d.file)
	for _, k := range slices.Sorted(maps.Keys(d.props)) {
		out.WriteString("," + k + "=" + d.props.str(k))
	}
	return out.String()
}

func (d drive) set(k, v string) { d.props[k] = v }

func (d drive) cdrom() bool     { return d.props.str("media") == "cdrom" }
func (d drive) cloudinit() bool { return strings.Contains(d.file, "cloudinit") }

// sizeText is a size as PVE writes it: the largest unit that is exact.
func sizeText(n int64) string {
	units := []string{"", "K", "M", "G", "T"}
	i := 0
	for n > 0 && n%1024 == 0 && i < len(units)-1 {
		n /= 1024
		i++
	}
	return strconv.FormatInt(n, 10) + units[i]
}

// parseSize reads 512M, 2G, 1.5T; without a unit it is bytes.
func parseSize(s string) int64 {
	mult := int64(1)
	if s == "" {
		return 0
	}
	if i := strings.IndexByte("KMGT", s[len(s)-1]); i >= 0 {
		mult, s = 1<<(10*(i+1)), s[:len(s)-1]
	}
	f, _ := strconv.ParseFloat(s, 64)
	return int64(f * float64(mult))
}

// cutVolume splits STORAGE:NAME.
func cutVolume(id string) (storage, name string) {
	storage, name, _ = strings.Cut(id, ":")
	return storage, name
}

func formatOf(name string) string {
	for _, f := range []string{"qcow2", "vmdk", "iso"} {
		if strings.HasSuffix(name, "."+f) {
			return f
		}
	}
	return "raw"
}
