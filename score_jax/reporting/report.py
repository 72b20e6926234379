def write(paths, out):
  return 0
