//! Networks of well-known shapes with random weights and polynomial activations.

use peregrine_ir::tensor::{Conv, Stage, TensorGraph, TensorOp, TensorTables, TensorTy, infer};
use peregrine_ir::{AxisMap, ConstPool, ConstTensor, Origin, OutputPort, Separable, ValueId};
use peregrine_passes::tensor::interp::Batch;

/// A network by name, such as `yolov8n:640`.
pub fn build(name: &str) -> Option<TensorGraph> {
    let (kind, side) = name.split_once(':').unwrap_or((name, "0"));
    let side: usize = side.parse().ok()?;
    match kind {
        "resnet20" => Some(resnet20()),
        "mobilenetv2" => Some(mobilenet_v2(side)),
        "yolov5n" => Some(yolo_v5n(side)),
        "yolov8n" => Some(yolo_v8n(side)),
        _ => None,
    }
}

/// An image for a network.
pub fn image(graph: &TensorGraph) -> Batch {
    let shape = graph.nodes.values().next().expect("an input").ty.shape.clone();
    let mut numbers = Numbers(11);
    let len = shape.iter().product();
    Batch::new(&shape[1..], (0..len).map(|_| numbers.next()).collect()).expect("one image")
}

struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 40) as f32) / 8_388_608.0 - 1.0
    }
}

struct Net {
    graph: TensorGraph,
    numbers: Numbers,
    degree: usize,
}

impl Net {
    fn new(channels: usize, side: usize, degree: usize) -> (Self, ValueId) {
        let tables = TensorTables { consts: ConstPool::new(), stage: Stage::Polynomial };
        let mut net = Self { graph: TensorGraph::new("net", tables), numbers: Numbers(7), degree };
        let ty = TensorTy::map(channels, side, side);
        let x = net.graph.add(TensorOp::Input { name: "x".into() }, [], ty, Origin::new("x"));
        (net, x)
    }

    fn op(&mut self, op: TensorOp, args: &[ValueId]) -> ValueId {
        let types: Vec<_> = args.iter().map(|a| self.graph.nodes[*a].ty.clone()).collect();
        let types: Vec<_> = types.iter().collect();
        let ty = infer(&op, &types, &self.graph.tables.consts).expect("networks type");
        let name = format!("{}{}", op.mnemonic(), self.graph.nodes.len());
        self.graph.add(op, args.iter().copied(), ty, Origin::new(&name))
    }

    fn channels(&self, x: ValueId) -> usize {
        self.graph.nodes[x].ty.shape[1]
    }

    fn side(&self, x: ValueId) -> usize {
        self.graph.nodes[x].ty.shape[2]
    }

    fn raw(
        &mut self,
        x: ValueId,
        channels: usize,
        kernel: usize,
        stride: u32,
        groups: usize,
        pad: u32,
    ) -> ValueId {
        let per_group = self.channels(x) / groups;
        let scale = (3.0 / (per_group * kernel * kernel) as f32).sqrt();
        let count = channels * per_group * kernel * kernel;
        let data: Vec<f32> = (0..count).map(|_| self.numbers.next() * scale).collect();
        let weights = ConstTensor::f32(vec![channels, per_group, kernel, kernel], data);
        let bias = ConstTensor::f32(
            vec![channels],
            (0..channels).map(|_| 0.1 * self.numbers.next()).collect::<Vec<_>>(),
        );
        let weights = self.graph.tables.consts.push(weights);
        let bias = Some(self.graph.tables.consts.push(bias));
        let conv = Conv {
            weights,
            bias,
            stride: [stride; 2],
            pads: [pad; 4],
            dilation: [1, 1],
            groups: groups as u32,
        };
        self.op(TensorOp::Conv(conv), &[x])
    }

    fn conv(&mut self, x: ValueId, channels: usize, kernel: usize, stride: u32) -> ValueId {
        let y = self.raw(x, channels, kernel, stride, 1, (kernel / 2) as u32);
        self.act(y)
    }

    fn act(&mut self, x: ValueId) -> ValueId {
        let mut row = vec![0.03, 0.5, 0.2, 0.0, -0.007];
        row.truncate(self.degree + 1);
        let coefficients = self.graph.tables.consts.push(ConstTensor::f64(vec![1, row.len()], row));
        self.op(TensorOp::Poly { coefficients }, &[x])
    }

    fn add(&mut self, a: ValueId, b: ValueId) -> ValueId {
        self.op(TensorOp::Add, &[a, b])
    }

    fn channel_map(&mut self, x: ValueId, channels: AxisMap) -> ValueId {
        let side = self.side(x) as u32;
        let maps = [channels, AxisMap::identity(side), AxisMap::identity(side)];
        self.op(TensorOp::Separable(Separable { maps }), &[x])
    }

    fn concat(&mut self, parts: &[ValueId]) -> ValueId {
        let total: usize = parts.iter().map(|&p| self.channels(p)).sum();
        let (mut offset, mut sum) = (0, None);
        for &part in parts {
            let channels = self.channels(part);
            let map = AxisMap::spread(channels as u32, total as u32, offset, 1).expect("a map");
            offset += channels as i64;
            let embedded = self.channel_map(part, map);
            sum = Some(match sum {
                None => embedded,
                Some(sum) => self.add(sum, embedded),
            });
        }
        sum.expect("parts")
    }

    fn split(&mut self, x: ValueId) -> [ValueId; 2] {
        let channels = self.channels(x) as u32;
        [0, 1].map(|i| {
            let start = i64::from(channels / 2 * i);
            self.channel_map(x, AxisMap::window(channels, channels / 2, start, 1).expect("a map"))
        })
    }

    fn upsample(&mut self, x: ValueId) -> ValueId {
        let (c, side) = (self.channels(x) as u32, self.side(x) as u32);
        let repeat = AxisMap::gather(side, &(0..2 * side).map(|i| i / 2).collect::<Vec<_>>()).expect("a map");
        let maps = [AxisMap::identity(c), repeat.clone(), repeat];
        self.op(TensorOp::Separable(Separable { maps }), &[x])
    }

    /// A mean over a window, as a depthwise convolution.
    fn mean(&mut self, x: ValueId, kernel: usize, pad: u32) -> ValueId {
        let c = self.channels(x);
        let factor = 1.0 / (kernel * kernel) as f32;
        let weights = ConstTensor::f32(vec![c, 1, kernel, kernel], vec![factor; c * kernel * kernel]);
        let weights = self.graph.tables.consts.push(weights);
        let conv =
            Conv { weights, bias: None, stride: [1, 1], pads: [pad; 4], dilation: [1, 1], groups: c as u32 };
        self.op(TensorOp::Conv(conv), &[x])
    }

    fn finish(mut self, outputs: &[ValueId]) -> TensorGraph {
        for (i, &value) in outputs.iter().enumerate() {
            self.graph.outputs.push(OutputPort { name: format!("y{i}"), value });
        }
        self.graph
    }
}

fn resnet20() -> TensorGraph {
    let (mut net, x) = Net::new(3, 32, 2);
    let mut x = net.conv(x, 16, 3, 1);
    for (stage, channels) in [16usize, 32, 64].into_iter().enumerate() {
        for block in 0..3 {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let y = net.conv(x, channels, 3, stride);
            let y = net.raw(y, channels, 3, 1, 1, 1);
            let skip = if stride == 1 { x } else { option_a(&mut net, x, channels as u32) };
            let y = net.add(y, skip);
            x = net.act(y);
        }
    }
    let pooled = net.mean(x, 8, 0);
    let y = net.raw(pooled, 10, 1, 1, 1, 0);
    net.finish(&[y])
}

/// Every other pixel, with zero channels around.
fn option_a(net: &mut Net, x: ValueId, channels: u32) -> ValueId {
    let (c, side) = (net.channels(x) as u32, net.side(x) as u32);
    let window = |input, output, start, step| AxisMap::window(input, output, start, step).expect("a map");
    let half = window(side, side / 2, 0, 2);
    let maps = [window(c, channels, -i64::from((channels - c) / 2), 1), half.clone(), half];
    net.op(TensorOp::Separable(Separable { maps }), &[x])
}

fn mobilenet_v2(side: usize) -> TensorGraph {
    let (mut net, x) = Net::new(3, side, 4);
    let mut x = net.conv(x, 32, 3, 2);
    for (expand, channels, repeat, stride) in [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ] {
        for i in 0..repeat {
            let stride = if i == 0 { stride } else { 1 };
            let hidden = net.channels(x) * expand;
            let y = if expand > 1 { net.conv(x, hidden, 1, 1) } else { x };
            let y = net.raw(y, hidden, 3, stride, hidden, 1);
            let y = net.act(y);
            let y = net.raw(y, channels, 1, 1, 1, 0);
            x = if stride == 1 && net.channels(x) == channels { net.add(x, y) } else { y };
        }
    }
    let x = net.conv(x, 1280, 1, 1);
    let side = net.side(x);
    let pooled = net.mean(x, side, 0);
    let y = net.raw(pooled, 1000, 1, 1, 1, 0);
    net.finish(&[y])
}

/// Cross-stage block of YOLOv5.
fn c3(net: &mut Net, x: ValueId, channels: usize, repeat: usize, shortcut: bool) -> ValueId {
    let half = channels / 2;
    let mut a = net.conv(x, half, 1, 1);
    for _ in 0..repeat {
        let y = net.conv(a, half, 1, 1);
        let y = net.conv(y, half, 3, 1);
        a = if shortcut { net.add(a, y) } else { y };
    }
    let b = net.conv(x, half, 1, 1);
    let join = net.concat(&[a, b]);
    net.conv(join, channels, 1, 1)
}

/// Cross-stage block of YOLOv8.
fn c2f(net: &mut Net, x: ValueId, channels: usize, repeat: usize, shortcut: bool) -> ValueId {
    let half = channels / 2;
    let y = net.conv(x, channels, 1, 1);
    let mut parts = net.split(y).to_vec();
    for _ in 0..repeat {
        let last = parts[parts.len() - 1];
        let y = net.conv(last, half, 3, 1);
        let y = net.conv(y, half, 3, 1);
        parts.push(if shortcut { net.add(last, y) } else { y });
    }
    let join = net.concat(&parts);
    net.conv(join, channels, 1, 1)
}

fn sppf(net: &mut Net, x: ValueId) -> ValueId {
    let channels = net.channels(x);
    let a = net.conv(x, channels / 2, 1, 1);
    let b = net.mean(a, 5, 2);
    let c = net.mean(b, 5, 2);
    let d = net.mean(c, 5, 2);
    let join = net.concat(&[a, b, c, d]);
    net.conv(join, channels, 1, 1)
}

fn yolo_v5n(side: usize) -> TensorGraph {
    let (mut net, x) = Net::new(3, side, 4);
    let y = net.raw(x, 16, 6, 2, 1, 2);
    let y = net.act(y);
    let y = net.conv(y, 32, 3, 2);
    let y = c3(&mut net, y, 32, 1, true);
    let y = net.conv(y, 64, 3, 2);
    let p3 = c3(&mut net, y, 64, 2, true);
    let y = net.conv(p3, 128, 3, 2);
    let p4 = c3(&mut net, y, 128, 3, true);
    let y = net.conv(p4, 256, 3, 2);
    let y = c3(&mut net, y, 256, 1, true);
    let y = sppf(&mut net, y);
    let h5 = net.conv(y, 128, 1, 1);
    let up = net.upsample(h5);
    let join = net.concat(&[up, p4]);
    let y = c3(&mut net, join, 128, 1, false);
    let h4 = net.conv(y, 64, 1, 1);
    let up = net.upsample(h4);
    let join = net.concat(&[up, p3]);
    let o3 = c3(&mut net, join, 64, 1, false);
    let y = net.conv(o3, 64, 3, 2);
    let join = net.concat(&[y, h4]);
    let o4 = c3(&mut net, join, 128, 1, false);
    let y = net.conv(o4, 128, 3, 2);
    let join = net.concat(&[y, h5]);
    let o5 = c3(&mut net, join, 256, 1, false);
    let outputs = [o3, o4, o5].map(|o| net.raw(o, 255, 1, 1, 1, 0));
    net.finish(&outputs)
}

fn yolo_v8n(side: usize) -> TensorGraph {
    let (mut net, x) = Net::new(3, side, 4);
    let y = net.conv(x, 16, 3, 2);
    let y = net.conv(y, 32, 3, 2);
    let y = c2f(&mut net, y, 32, 1, true);
    let y = net.conv(y, 64, 3, 2);
    let p3 = c2f(&mut net, y, 64, 2, true);
    let y = net.conv(p3, 128, 3, 2);
    let p4 = c2f(&mut net, y, 128, 2, true);
    let y = net.conv(p4, 256, 3, 2);
    let y = c2f(&mut net, y, 256, 1, true);
    let p5 = sppf(&mut net, y);
    let up = net.upsample(p5);
    let join = net.concat(&[up, p4]);
    let h4 = c2f(&mut net, join, 128, 1, false);
    let up = net.upsample(h4);
    let join = net.concat(&[up, p3]);
    let o3 = c2f(&mut net, join, 64, 1, false);
    let y = net.conv(o3, 64, 3, 2);
    let join = net.concat(&[y, h4]);
    let o4 = c2f(&mut net, join, 128, 1, false);
    let y = net.conv(o4, 128, 3, 2);
    let join = net.concat(&[y, p5]);
    let o5 = c2f(&mut net, join, 256, 1, false);
    let mut outputs = Vec::new();
    for o in [o3, o4, o5] {
        for (hidden, last) in [(64, 64), (80, 80)] {
            let y = net.conv(o, hidden, 3, 1);
            let y = net.conv(y, hidden, 3, 1);
            outputs.push(net.raw(y, last, 1, 1, 1, 0));
        }
    }
    net.finish(&outputs)
}
