# The boot sector of guest.py: `as --32 guest.S -o guest.o` and `ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o guest.bin guest.o`.
# It counts its boots in a sector of its disk, tells them on the serial console, waits for the power
# button, and goes off by itself. Where the sector's number is 0 it writes nothing.
        .code16
        .globl  start
start:  cli
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movw    $0x7c00, %sp
        sti
        cld
        movb    %dl, drive
        movw    $0x3fb, %dx             # line control: 8 bits, no parity
        movb    $3, %al
        outb    %al, %dx
        movw    $0x602, %dx             # ACPI: tell when the power button is pressed
        movw    $0x100, %ax
        outw    %ax, %dx
        cmpl    $0, sector
        je      told
        movb    $0x42, %ah              # read
        call    disk
        cmpl    $0x42444546, 0x8000     # "FEDB": a counter, and not what a broken copy left there
        jne     broken
        incl    0x8004
        movb    $0x43, %ah              # write
        call    disk
told:   movw    $up, %si
        call    print
        xorl    %eax, %eax
        cmpl    $0, sector
        je      zero
        movl    0x8004, %eax
zero:   call    number
        movw    $end, %si
        call    print
idle:   hlt
        movw    $0x600, %dx
        inw     %dx, %ax
        testw   $0x100, %ax
        jz      idle
        movw    $down, %si
        call    print
        movw    $0x604, %dx             # off
        movw    $0x2000, %ax
        outw    %ax, %dx
        jmp     idle
broken: movw    $bad, %si
        call    print
        jmp     idle

disk:   movw    $packet, %si
        movb    drive, %dl
        xorb    %al, %al
        int     $0x13
        jc      broken
        ret

number: movl    $10, %ebx               # prints %eax
        xorw    %cx, %cx
digit:  xorl    %edx, %edx
        divl    %ebx
        pushw   %dx
        incw    %cx
        testl   %eax, %eax
        jnz     digit
show:   popw    %ax
        addb    $'0', %al
        call    send
        loop    show
        ret

print:  lodsb
        testb   %al, %al
        jz      done
        call    send
        jmp     print
done:   ret

send:   pushw   %dx
        pushw   %ax
        movw    $0x3fd, %dx
wait:   inb     %dx, %al
        testb   $0x20, %al
        jz      wait
        popw    %ax
        movw    $0x3f8, %dx
        outb    %al, %dx
        popw    %dx
        ret

up:     .asciz  "FEDGUEST up boots="
end:    .asciz  " disk=ok\r\n"
down:   .asciz  "FEDGUEST down\r\n"
bad:    .asciz  "FEDGUEST disk=broken\r\n"
drive:  .byte   0
packet: .byte   16, 0
        .word   1
        .word   0x8000, 0
sector: .long   0, 0
