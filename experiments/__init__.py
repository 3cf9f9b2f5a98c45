"""The commands of studies, one module each; what they share lies in rooms.

command_line/   options, progress, memory
configs/        a study each
domains/        kinds of data: images, sentences, texts
pipeline/       the stages of a study: teacher, cache, students, evaluation
deployment/     finished networks for other programs
reporting/      tables, figures, pages
benchmarks/     speed
results/        finished studies
"""
