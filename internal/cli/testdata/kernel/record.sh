# Makes groups in every state that a snapshot can be in, and in each prints
# what lvm shows, for TestRecordings. Runs as root in a virtual machine with
# three disks; what a step prints is a recording if the step has a name. Each
# step runs in a shell of its own behind the lines up to the first step.
set +e
cmd() { echo "-- $* --"; "$@" 2>/dev/null; }
STATE="lv_name,vg_name,lv_attr,lv_active,lv_active_locally,lv_active_exclusively,lv_merging,lv_permissions,lv_suspended,lv_live_table,lv_inactive_table,lv_device_open,data_percent,snap_percent,copy_percent,lv_check_needed,lv_merge_failed,lv_snapshot_invalid,lv_health_status,lv_size,origin,origin_size,lv_role,lv_modules,lv_descendants"
state() {
 for vg in vg0 multi-media; do vgcfgbackup -f /tmp/cfg $vg >/dev/null 2>&1; echo "-- vg/$vg --"; cat /tmp/cfg; done
 echo "-- pv --"; pvs --noheadings --units b --nosuffix -o pv_name,pv_uuid,dev_size,pv_mda_count,pv_major,pv_minor
 echo "-- dm --"; dmsetup status;  echo "-- open --"; dmsetup info -c --noheadings -o name,open,attr
 cmd lvs -a; cmd lvs -a -o $STATE --reportformat json; cmd lvs -a -o $STATE --binary;
 cmd vgs; cmd lvdisplay vg0; cmd lvdisplay -a multi-media; cmd lvdisplay -c vg0; cmd vgdisplay vg0; cmd vgdisplay -c vg0; cmd vgs -v; cmd lvs -a --segments
 cmd lvs -a -o lv_name -S 'lv_snapshot_invalid=1 || lv_device_open=open'; cmd lvs -a -o lv_name -S 'data_percent>20 && lv_active=active'
 if [ "$1" = all ]; then cmd lvs -a -o all --reportformat json; cmd lvs -a -o seg_all,lv_name --reportformat json; cmd vgs -o all --reportformat json; cmd lvs -a -o lv_all; cmd pvs --segments -v; cmd pvs; cmd lvdisplay -m vg0; cmd pvdisplay -m /dev/vda;  cmd lvs -v -a; cmd lvdisplay -C vg0; fi
}
exec 2>/dev/null

### make
pvcreate /dev/vda /dev/vdb /dev/vdc >/dev/null
vgcreate vg0 /dev/vda /dev/vdb >/dev/null
vgcreate -s 1M multi-media /dev/vdc >/dev/null
lvcreate -y -n root -L 60m vg0; lvcreate -y -n big -L 60m --addtag t1 --addtag zz vg0 /dev/vdb; lvcreate -y -n idle -L 8m vg0
lvcreate -y -n home--extra -L 8m multi-media -pr -Zn -Wn; lvcreate -y -an -n off -L 7m multi-media -Zn -Wn; lvcreate -y -n spare -L 3m multi-media -Zn -Wn
lvcreate -y -s -n snap1 -L 64m vg0/root; lvcreate -y -s -n snap2 -L 4m -c 16k vg0/root; lvcreate -y -s -n ro -L 4m -pr vg0/big
dd if=/dev/urandom of=/dev/vg0/root bs=64k count=30 seek=3 conv=fsync

### active
state all

### fill
dd if=/dev/urandom of=/dev/vg0/root bs=1M count=50 seek=5 conv=fsync
sleep 1000 < /dev/vg0/big >/dev/null &
echo $! > /tmp/holder
sleep 1

### overflow
state

### hold
lvconvert --merge -b vg0/ro
dmsetup suspend vg0-idle

### delayed
state

### merge
dmsetup resume vg0-idle
kill $(cat /tmp/holder); sleep 1
lvremove -y vg0/snap2
lvchange -an vg0/idle; lvchange -aay vg0/idle; 
lvchange -an multi-media/spare
for p in /sys/module/dm_snapshot/parameters/*throttle*; do echo 1 > $p; done
lvconvert --merge -b vg0/snap1
dmsetup suspend vg0-root

### merging
state

### stop
dmsetup resume vg0-root
vgchange -an vg0

### inactive
state
