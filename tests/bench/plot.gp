# Bars of the first load: gnuplot -e "data='bench.dat'; set output 'bench.png'" plot.gp
set terminal pngcairo size 1100,480 font 'sans,10'
set style data histograms
set style histogram errorbars gap 1 lw 1
set style fill solid 0.8 border -1
set boxwidth 0.8
set xtics rotate by -30 nomirror
set grid ytics
set yrange [0:*]
set multiplot layout 1,2 title '100-byte messages, prefetch 100, classic queue, one worker: median, least and most'
set title 'messages/s (more is better)'
plot data using 2:3:4:xtic(1) notitle lc rgb '#4477aa'
set title 'CPU µs a message, all processes (less is better)'
set logscale y
set yrange [0.5:*]
plot data using 5:6:7:xtic(1) notitle lc rgb '#cc6677'
unset multiplot
