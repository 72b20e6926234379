# SPDX-License-Identifier: Apache-2.0
"""Asks an exported model twice, with transformers alone.

`python examples/two_turn_client.py MODEL QUESTION [INSTRUCTION] [TOKENS]`: the second turn says what training said
between the attempts. README.md in the model's folder has that instruction, and the tokens of an attempt. The model was
trained on conversations of this form.
"""

import sys

import transformers


def main(folder: str, question: str, instruction: str = 'Check and retry.', tokens: int = 32) -> list[str]:
  tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
  model = transformers.AutoModelForCausalLM.from_pretrained(folder)
  messages, answers = [{'role': 'user', 'content': question}], []
  for _ in range(2):
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors='pt', return_dict=True)
    out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
    answers.append(tokenizer.decode(out[0, ids['input_ids'].shape[1] :], skip_special_tokens=True))
    messages += [{'role': 'assistant', 'content': answers[-1]}, {'role': 'user', 'content': instruction}]
    print(f'attempt {len(answers)}: {answers[-1]}')
  return answers


if __name__ == '__main__':
  main(*sys.argv[1:4], *map(int, sys.argv[4:5]))
